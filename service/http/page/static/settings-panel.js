/** The settings that clips and live streams share: checkpoint, time steps, options. */

import { byId, element } from "./elements.js";

/** The largest T that the slider offers, however many the service allows. */
const MAX_SLIDER_STEPS = 16;

/** @param {{maxSteps: number, onChange: () => void}} options */
export function settingsPanel({ maxSteps, onChange }) {
  const model = byId("model");
  const steps = byId("steps");
  let models = [];

  const chosen = () => models.find((each) => each.name === model.value);
  const showSteps = () => {
    const isDefault = Number(steps.value) === chosen()?.steps;
    byId("steps-value").textContent = `${steps.value}${isDefault ? " (default)" : ""}`;
  };
  const showModel = () => {
    const entry = chosen();
    byId("model-note").textContent = entry?.description ?? "";
    if (entry?.steps) steps.value = entry.steps;
    byId("leave-one-out").disabled = !entry?.missing_streams;
    showSteps();
  };

  steps.max = Math.min(maxSteps, MAX_SLIDER_STEPS);
  steps.addEventListener("input", showSteps);
  model.addEventListener("change", showModel);
  for (const id of ["model", "steps", "leave-one-out", "diagnostics", "abstain-below", "abstain-beyond"]) {
    byId(id).addEventListener("change", onChange);
  }

  return {
    /** Offer these checkpoints; those that are not ready cannot be chosen. */
    show(list) {
      const before = model.value;
      models = list;
      model.replaceChildren(...list.map((entry) => element("option", {
        value: entry.name, disabled: entry.status !== "ready",
        text: entry.status === "ready" ? entry.name : `${entry.name} (${entry.status})`,
      })));
      const known = list.some((entry) => entry.name === before && entry.status === "ready");
      model.value = known ? before : list.find((entry) => entry.default)?.name ?? list[0]?.name ?? "";
      if (!known) showModel();
    },

    /** Whether a checkpoint is ready. */
    has: (name) => models.some((entry) => entry.name === name && entry.status === "ready"),

    choose(name) {
      if (model.value === name) return;
      model.value = name;
      showModel();
    },

    model: chosen,

    /** The options of live streams: the fields that uploads have too. */
    shared() {
      const entry = chosen();
      const options = entry && !entry.default ? { model: entry.name } : {};
      // Only a T that was chosen: the service never lowers one that is sent.
      if (entry && Number(steps.value) !== entry.steps) options.steps = Number(steps.value);
      return options;
    },

    /** The options of an upload, without those at their defaults. */
    upload() {
      const options = { ...this.shared(), attention: "overlay", class_activation: "overlay" };
      if (byId("leave-one-out").checked && chosen()?.missing_streams) options.contributions = "leave_one_out";
      if (byId("diagnostics").checked) options.diagnostics = true;
      for (const [id, name] of [["abstain-below", "abstain_below"], ["abstain-beyond", "abstain_beyond"]]) {
        if (byId(id).value !== "") options[name] = Number(byId(id).value);
      }
      return options;
    },
  };
}

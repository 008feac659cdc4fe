/** The page's start: tabs, key, checkpoints, and what the panels share. */

import { Client } from "./client.js";
import { clipPanel } from "./clip-panel.js";
import { byId } from "./elements.js";
import { livePanel } from "./live-panel.js";
import { showProblem } from "./problem-view.js";
import { settingsPanel } from "./settings-panel.js";

/** Name in sessionStorage: the key is kept as long as the tab, and in no other. */
const STORED_KEY = "scmrl.key";
/** Milliseconds between looks at checkpoints that are being loaded. */
const LOOK_AGAIN_MS = 3000;
/** What holds where the service cannot be asked. */
const LIMITS = { max_steps: 16, max_file_bytes: 64 * 2 ** 20, max_duration_s: 60 };

const service = new URL(".", document.baseURI);
const client = () => new Client(service, { key: sessionStorage.getItem(STORED_KEY) ?? undefined });

async function readLimits() {
  try {
    const response = await fetch(new URL("page/settings.json", service));
    return response.ok ? await response.json() : LIMITS;
  } catch {
    return LIMITS;
  }
}

const limits = await readLimits();
const panels = {};
let current = "clip";
const settings = settingsPanel({ maxSteps: limits.max_steps, onChange: () => panels[current].settingsChanged() });
/** Return the card of the chosen checkpoint; null where none could be listed. */
const card = async () => (settings.model() ? client().card(settings.model().name) : null);
const page = { client, settings, card, limits, onKeyNeeded: () => openKey() };
panels.clip = clipPanel(page);
panels.live = livePanel(page);

// --- checkpoints

async function loadModels() {
  try {
    const models = await client().models();
    settings.show(models);
    panels.clip.showExamples();
    if (models.some((model) => model.status === "loading")) setTimeout(loadModels, LOOK_AGAIN_MS);
  } catch (error) {
    byId("examples-of-all").hidden = true;
    showProblem(byId("problem"), error);
    if (error.kind === "key-needed") openKey();
  }
}

// --- key

function openKey() {
  byId("key").open = true;
  byId("key-value").focus();
}

function showKey() {
  const key = sessionStorage.getItem(STORED_KEY);
  byId("key-set").hidden = !key;
  byId("key-set").textContent = key ? " (set)" : "";
}

function setKey(key) {
  if (key) sessionStorage.setItem(STORED_KEY, key);
  else sessionStorage.removeItem(STORED_KEY);
  byId("key-value").value = "";
  byId("key").open = false;
  byId("key").querySelector("summary").focus();
  showKey();
  showProblem(byId("problem"), null);
  loadModels();
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setKey(byId("key-value").value.trim());
});
byId("key-forget").addEventListener("click", () => setKey(""));
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && byId("key").open) {
    byId("key").open = false;
    byId("key").querySelector("summary").focus();
  }
});
document.addEventListener("click", (event) => {
  if (!byId("key").contains(event.target)) byId("key").open = false;
});

// --- tabs

const tabs = { clip: byId("tab-clip"), live: byId("tab-live") };

function select(name) {
  panels[current].hide();
  current = name;
  for (const [each, tab] of Object.entries(tabs)) {
    const chosen = each === name;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    byId(`panel-${each}`).hidden = !chosen;
  }
  byId("clip-options").hidden = name !== "clip";
  history.replaceState(null, "", name === "clip" ? location.pathname : `#${name}`);
  panels[name].show();
}

for (const [name, tab] of Object.entries(tabs)) {
  tab.addEventListener("click", () => select(name));
  tab.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other = name === "clip" ? "live" : "clip";
    select(other);
    tabs[other].focus();
  });
}

// A file that is dropped must not replace the page, in whichever tab.
for (const event of ["dragover", "drop"]) {
  document.addEventListener(event, (dragged) => dragged.preventDefault());
}

showKey();
select(location.hash === "#live" ? "live" : "clip");
await loadModels();

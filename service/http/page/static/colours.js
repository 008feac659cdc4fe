/** The colours of maps. */

/** Ten colours, dark to bright, of the scale "inferno", in steps of 1/9. */
const STOPS = [
  [0, 0, 4], [27, 12, 66], [75, 12, 107], [120, 28, 109], [165, 44, 96],
  [207, 68, 70], [237, 105, 37], [251, 155, 6], [247, 209, 61], [252, 255, 164],
];

/** Return red, green and blue, 0 to 255, of a value from 0 to 1. */
export function inferno(value) {
  const at = Math.min(Math.max(value, 0), 1) * (STOPS.length - 1);
  const low = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[low].map((begin, i) => begin + (STOPS[low + 1][i] - begin) * (at - low));
}

/**
 * Return the weight of what is positive in a map, 0 to 1 of its maximum, at every position:
 * bilinear between the centres of its cells, 0 outside of them, as the service draws it.
 *
 * @param {import("./client.js").SpatialMap} map
 * @param {number[]} rows  positions in the unit of `row_edges`
 * @param {number[]} columns
 * @returns {Float32Array}  [rows × columns]
 */
export function sampleMap(map, rows, columns) {
  const maximum = Math.max(...map.values.flat());
  const weights = new Float32Array(rows.length * columns.length);
  if (maximum <= 0) return weights;
  const positive = map.values.map((cells) => cells.map((value) => Math.max(value, 0)));
  const rowAt = rows.map((position) => cellAt(map.row_edges, position));
  const columnAt = columns.map((position) => cellAt(map.column_edges, position));
  rowAt.forEach((row, y) => columnAt.forEach((column, x) => {
    if (!row || !column) return;
    const top = mix(positive[row.low], column);
    const bottom = mix(positive[row.high], column);
    weights[y * columns.length + x] = (top + (bottom - top) * row.share) / maximum;
  }));
  return weights;
}

function mix(values, { low, high, share }) {
  return values[low] + (values[high] - values[low]) * share;
}

/** Return the two cells around a position, and the second one's share; null outside of all cells. */
function cellAt(edges, position) {
  if (position < edges[0] || position > edges.at(-1)) return null;
  const last = edges.length - 2;
  const centre = (cell) => (edges[cell] + edges[cell + 1]) / 2;
  let low = 0;
  while (low < last && centre(low + 1) <= position) low += 1;
  const high = Math.min(low + 1, last);
  const span = centre(high) - centre(low);
  const share = span > 0 ? Math.min(Math.max((position - centre(low)) / span, 0), 1) : 0;
  return { low, high, share };
}

/** Opacity of a map at its maximum. */
const MAX_OPACITY = 0.75;

/** Draw weights [height × width] over the picture of a canvas, which becomes grey. */
export function blend(context, weights) {
  const { width, height } = context.canvas;
  const image = context.getImageData(0, 0, width, height);
  const { data } = image;
  for (let i = 0; i < weights.length; i += 1) {
    const at = i * 4;
    const weight = weights[i];
    const colour = inferno(weight);
    const opacity = MAX_OPACITY * weight;
    const level = 0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2];
    for (let c = 0; c < 3; c += 1) {
      data[at + c] = level * (1 - opacity) + colour[c] * opacity;
    }
  }
  context.putImageData(image, 0, 0);
}

/** Draw weights [height × width] on an empty canvas, to lie over a picture. */
export function drawLayer(context, weights) {
  const image = context.createImageData(context.canvas.width, context.canvas.height);
  weights.forEach((weight, i) => {
    image.data.set([...inferno(weight), 255 * MAX_OPACITY * weight], i * 4);
  });
  context.putImageData(image, 0, 0);
}

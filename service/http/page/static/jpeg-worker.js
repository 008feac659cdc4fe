/** Encodes pictures as JPEG, off the page's thread, which is busy with answers. */

const QUALITY = 0.8;

addEventListener("message", async ({ data: { picture, timeNs } }) => {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").drawImage(picture, 0, 0);
  picture.close();
  const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY });
  const jpeg = await blob.arrayBuffer();
  postMessage({ jpeg, timeNs }, [jpeg]);
});

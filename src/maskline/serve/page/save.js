// Files to keep: the answer as JSON, the image as PNG.

const LAST_READ = 60_000; // milliseconds; browsers may begin to read a file later than the click

/** The service's answer with only the instances above a score, in its own order. */
export function answerAbove(answer, threshold) {
  const least = Math.fround(threshold);
  const instances = answer.result.instances.filter(({ score }) => score > least);
  return { ...answer, result: { ...answer.result, instances } };
}

export function saveJson(name, answer) {
  save(new Blob([JSON.stringify(answer, null, 2), "\n"], { type: "application/json" }), `${stem(name)}_res.json`);
}

/** Returns whether the browser had room for it. */
export async function savePng(name, canvas) {
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  if (blob) save(blob, `${stem(name)}_res.png`);
  return blob !== null;
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), LAST_READ);
}

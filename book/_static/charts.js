/* Draws the charts of a page in place of their static twins, which stay where that fails. */
for (const box of document.querySelectorAll("div.chart")) {
  const spec = JSON.parse(box.querySelector("script").textContent);
  if (box.clientWidth < 600) spec.columns = 1; // panels below each other on a telephone
  const place = document.createElement("div");
  box.append(place);
  const options = { renderer: "svg", actions: { export: true, source: false, compiled: false, editor: false } };
  vegaEmbed(place, spec, options).then(
    () => {
      box.querySelector("img").hidden = true;
      place.querySelector("summary").setAttribute("aria-label", "save the figure");
    },
    (error) => { place.remove(); console.error(error); },
  );
}

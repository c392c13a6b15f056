/* A figure to drag: redraws attacked images and answers of networks for the ε that was chosen. */
(function () {
  const box = document.querySelector("div.slider");
  const data = JSON.parse(box.querySelector("script").textContent);
  const size = 3 * data.side * data.side;
  const made = {};

  function add(parent, tag, attributes = {}, text = "") {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.textContent = text;
    parent.append(element);
    return element;
  }

  async function unpacked(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  function choice(parent, label, names) {
    const select = add(add(parent, "label", {}, `${label} `), "select");
    names.forEach((name, value) => add(select, "option", { value }, name));
    return select;
  }

  function picture(parent, caption) {
    const figure = add(parent, "div", { class: "slider-picture" });
    const canvas = add(figure, "canvas", { role: "img", width: data.side, height: data.side });
    add(figure, "div", { "aria-hidden": true }, caption);
    return canvas;
  }

  function draw(canvas, value, said) {
    const pixels = new ImageData(data.side, data.side);
    for (let at = 0; at < size; at++) {
      const channel = Math.floor((3 * at) / size);
      pixels.data[4 * (at % (size / 3)) + channel] = value(at);
    }
    for (let at = 3; at < pixels.data.length; at += 4) pixels.data[at] = 255;
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    canvas.setAttribute("aria-label", said);
  }

  function build() {
    const controls = add(made.place, "div", { class: "slider-controls" });
    made.image = choice(controls, "image", data.truth.map((label) => data.classes[label]));
    made.attack = choice(controls, "attack", data.attacks);
    made.attack.value = data.attacks.length - 1;
    made.attacked = choice(controls, "made against the network", data.networks);
    const label = add(controls, "label", { class: "slider-epsilon" }, "ε ");
    const most = data.epsilons.length - 1;
    const middle = Math.ceil(most / 2); // at zero there is nothing to see yet
    made.epsilon = add(label, "input", { type: "range", min: 0, max: most, step: 1, value: middle });
    made.said = add(label, "span", { "aria-hidden": true });
    const pictures = add(made.place, "div", { class: "slider-pictures" });
    made.pictures = ["image", "perturbation", "attacked image"].map((said) => picture(pictures, said));
    const table = add(made.place, "table");
    const head = add(add(table, "thead"), "tr");
    for (const name of ["network", "its answer", "how sure"]) add(head, "th", { scope: "col" }, name);
    made.counted = add(head, "th", { scope: "col" });
    const body = add(table, "tbody");
    made.rows = data.networks.map((name) => {
      const row = add(body, "tr");
      add(row, "th", { scope: "row" }, name);
      return row;
    });
    made.status = add(made.place, "p", { role: "status", class: "visually-hidden" });
    controls.addEventListener("input", show);
  }

  function show() {
    const chosen = ["image", "attack", "attacked", "epsilon"].map((name) => Number(made[name].value));
    const [image, attack, attacked, epsilon] = chosen;
    const network = attack * data.networks.length + attacked;
    const start = (network * data.truth.length + image) * size;
    const strength = data.epsilons[epsilon];
    const truth = data.classes[data.truth[image]];
    const clean = (at) => made.clean[image * size + at];
    const seen = (at) => (clean(at) + made.changes[(start + at) * data.epsilons.length + epsilon]) & 255;
    const largest = Math.max(1, Math.round((255 * parseFloat(strength)) / 256));
    const grey = (at) => 127.5 + (127.5 * (seen(at) - clean(at))) / largest;
    draw(made.pictures[0], clean, `the image: ${truth}`);
    draw(made.pictures[1], grey, `the perturbation at ε = ${strength}, amplified; grey is zero`);
    draw(made.pictures[2], seen, `the image with the perturbation at ε = ${strength}`);
    made.epsilon.setAttribute("aria-valuetext", strength);
    made.said.textContent = strength;
    made.counted.textContent = `% right of ${data.count}, under ${data.attacks[attack]} against itself`;
    const told = made.rows.map((row, index) => {
      const [label, sure] = data.answers[attack][attacked][epsilon][image][index];
      const mark = label === data.truth[image] ? "right" : "wrong";
      row.querySelectorAll("td").forEach((cell) => cell.remove());
      add(row, "td", {}, `${mark === "right" ? "✓" : "✗"}\u00a0${data.classes[label]}`);
      const bar = add(row, "td", { class: "slider-sure" }, `${sure} %`);
      add(bar, "div", { class: mark, style: `width: ${sure}%` });
      add(row, "td", {}, data.accuracies[attack][index][epsilon]);
      return `${data.networks[index]}: ${data.classes[label]}, ${sure} %, ${mark}`;
    });
    made.status.textContent = `${truth}, ε = ${strength}. ${told.join("; ")}.`;
  }

  async function begin() {
    [made.clean, made.changes] = await Promise.all([data.clean, data.changes].map(unpacked));
    made.place = add(box, "div", { role: "group", "aria-label": "attacked images along ε" });
    build();
    show();
    box.querySelector(".drawing").remove();
  }

  begin().catch(console.error); // the static figure stays
})();

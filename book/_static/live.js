/* Cells tagged `live` can be changed and run in the page, by Brython, which is loaded on demand. */
(function () {
  const here = document.currentScript.src;
  const { library, records } = JSON.parse(document.getElementById("live-records").textContent);
  const start = `${library}
from browser import window
_names = {**globals(), "records": Records(json.loads(window.liveRecords))}
window.liveRun = lambda source: run(source, _names)
`;
  let ready;

  function load(name) {
    return new Promise((resolve, reject) => {
      const script = document.createElement("script");
      script.src = new URL(name, here);
      script.onload = resolve;
      script.onerror = () => reject(new Error(`${script.src} is missing`));
      document.head.append(script);
    });
  }

  async function begin() {
    await load("brython.js");
    await load("brython_stdlib.js");
    window.liveRecords = JSON.stringify(records);
    window.__BRYTHON__.runPythonSource(start, "live");
  }

  const KEYWORDS = "and|as|break|def|elif|else|for|from|if|import|in|is|lambda|not|or|return|while";
  const BUILTINS = "abs|int|len|list|map|max|min|print|range|round|sorted|sum|zip|True|False|None";
  const TOKENS = [
    ["c1", /#.*/],
    ["s2", /[rbf]*(?:"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')/],
    ["k", RegExp(`\\b(?:${KEYWORDS})\\b`)],
    ["mi", /\b\d[\d.e_]*/],
    ["nb", RegExp(`\\b(?:${BUILTINS})\\b`)],
  ]; // by the theme's classes
  const TOKEN = RegExp(TOKENS.map(([, token]) => `(${token.source})`).join("|"), "g");

  /* The source in colours, into an element that lies below the editor. */
  function colour(source, below) {
    below.replaceChildren();
    let seen = 0;
    for (const match of source.matchAll(TOKEN)) {
      const part = document.createElement("span");
      part.className = TOKENS.find((_, group) => match[group + 1])[0];
      part.textContent = match[0];
      below.append(source.slice(seen, match.index), part);
      seen = match.index + match[0].length;
    }
    below.append(`${source.slice(seen)}\n`);
  }

  function button(text, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", action);
    return made;
  }

  function enliven(cell, number) {
    const shown = cell.querySelector(".cell_input pre");
    const output = cell.querySelector(".cell_output");
    const original = { source: shown.textContent.trimEnd(), output: output.innerHTML };
    const editor = document.createElement("textarea");
    editor.setAttribute("aria-label", `Python cell ${number}`);
    editor.spellcheck = false;
    editor.wrap = "off";
    output.setAttribute("aria-live", "polite");
    const below = document.createElement("div"); // the theme lets the keyboard stop at a pre
    below.className = "live-colours";
    below.setAttribute("aria-hidden", "true");
    const both = document.createElement("div");
    both.className = "live-editor highlight";
    both.append(below, editor);

    function fit() {
      editor.rows = editor.value.split("\n").length;
      colour(editor.value, below);
    }
    function reset() {
      editor.value = original.source;
      output.innerHTML = original.output;
      fit();
    }
    async function run() {
      output.setAttribute("aria-busy", "true");
      output.textContent = "running …";
      await new Promise((resolve) => setTimeout(resolve, 50)); // lets the page say so first
      try {
        await (ready ??= begin());
        output.innerHTML = window.liveRun(editor.value);
      } catch (error) {
        output.textContent = `This browser cannot run the cell: ${error.message}`;
      }
      output.removeAttribute("aria-busy");
    }

    editor.addEventListener("input", fit);
    editor.addEventListener("scroll", () => (below.scrollLeft = editor.scrollLeft));
    editor.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        run();
      }
    });
    const bar = document.createElement("div");
    bar.className = "live-bar";
    bar.append(button("Run", run), button("Reset", reset));
    cell.querySelector(".cell_input").replaceChildren(both, bar);
    reset();
  }

  document.querySelectorAll("div.cell.tag_live").forEach((cell, index) => enliven(cell, index + 1));
})();

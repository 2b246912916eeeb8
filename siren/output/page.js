// Output and reference are side by side without this script, and on paper. On a screen it lays them
// over each other, and the slider moves the border between them.
for (const pair of document.querySelectorAll(".pair")) {
  const slider = pair.querySelector("input");
  if (!slider) continue;
  const move = () => {
    pair.style.setProperty("--at", slider.value);
    slider.setAttribute("aria-valuetext", `${slider.value} % output`);
  };
  slider.hidden = false;
  pair.classList.add("sliding");
  slider.addEventListener("input", move);
  move();
}

// What is folded away on the screen is printed.
const closed = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => {
  opened = [...closed()];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => {
  for (const details of opened) details.open = false;
});

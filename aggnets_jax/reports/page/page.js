// Arrow keys go from link to link, so that a map is one stop of the tab key.
for (const map of document.querySelectorAll("[role=grid]")) {
  const links = [...map.querySelectorAll("[tabindex]")];
  const choose = (chosen) => links.forEach((link) => (link.tabIndex = link === chosen ? 0 : -1));
  choose(links[0]);
  map.addEventListener("focusin", (event) => choose(event.target));
  map.addEventListener("keydown", (event) => {
    const along = { ArrowLeft: "source", ArrowRight: "source", ArrowUp: "layer", ArrowDown: "layer" }[event.key];
    const line = links.filter((link) => along && link.dataset[along] === event.target.dataset[along]);
    const step = event.key === "ArrowLeft" || event.key === "ArrowUp" ? -1 : 1;
    const next = line[line.indexOf(event.target) + step];
    if (along) event.preventDefault();
    if (next) next.focus();
  });
}

// One small helper: an element with attributes and children; strings become text nodes, so nothing from a file is markup.

export function crisp(image) { // pixels of the survey stay squares when enlarged, and are averaged, not skipped, when reduced
  image.style.imageRendering = image.naturalWidth > image.clientWidth * (window.devicePixelRatio || 1) ? "auto" : "pixelated";
}

export function north(angle) { // where north is on a picture, degrees clockwise from up; nothing where it is not known
  return angle === null || angle === undefined ? "" : h("div", { class: "north", title: angle ? `north, ${Math.abs(angle)}° ${angle < 0 ? "left" : "right"} of up` : "north up, east left", style: `transform:rotate(${angle}deg)` }, "N");
}

export function replaced(root, otherwise, change) { // do it; if that takes away what had the focus, what bears its name now gets it, so that keys go on
  const focused = root.getRootNode().activeElement, held = focused && root.contains(focused);
  change();
  if (!held || root.getRootNode().activeElement === focused) { return; }
  ([...root.querySelectorAll("[data-name]")].find(e => e.dataset.name === focused.dataset.name) ?? otherwise).focus({ preventScroll: true });
}

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) { element[name] = value; } else { element.setAttribute(name, value); }
  }
  element.append(...children.filter(c => c !== "" && c !== null && c !== undefined));
  return element;
}

// One small helper: an element with attributes and children; strings become text nodes, so nothing from a file is markup.

export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) { element[name] = value; } else { element.setAttribute(name, value); }
  }
  element.append(...children.filter(c => c !== "" && c !== null && c !== undefined));
  return element;
}

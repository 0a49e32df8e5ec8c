// Mounts whatever inside `scope` waits for the module with this key; what is alive already is left alone.

import { mount } from "./attr.js";

function mountAll(scope, key) {
  for (const data of scope.querySelectorAll(`script[data-attr="${key}"]`)) {
    const root = data.closest(".llm-attr:not(.live)");
    if (root) mount(root, JSON.parse(data.textContent));
  }
}

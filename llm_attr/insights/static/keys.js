// One table of the keys: what they do, and the dialog that says so.

export const KEYS = [
  { keys: ["Ctrl+Enter", "⌘+Enter"], does: "primary", words: "generate, or explain the answer that is there" },
  { keys: ["x"], does: "drop", words: "answer again without the held unit", letter: true },
  { keys: ["n"], does: "next", words: "hold the next strongest unit", letter: true },
  { keys: ["p"], does: "previous", words: "hold the stronger unit before", letter: true },
  { keys: ["a"], does: "whole", words: "the whole answer", letter: true },
  { keys: ["c"], does: "pin", words: "pin this result to compare", letter: true },
  { keys: ["e"], does: "edit", words: "edit the prompt", letter: true },
  { keys: ["["], does: "earlier", words: "the earlier result", letter: true },
  { keys: ["]"], does: "later", words: "the later result", letter: true },
  { keys: ["h"], does: "drawer", words: "show or hide the history", letter: true },
  { keys: ["?"], does: "help", words: "these keys", letter: true },
];

/** What a key does; letters do nothing in a text field, with a modifier, or where they are turned off. */
export function meaning({ key, ctrlKey = false, metaKey = false, altKey = false }, { writes, letters }) {
  if (key === "Enter" && (ctrlKey || metaKey)) return "primary";
  if (writes || !letters || ctrlKey || metaKey || altKey) return null;
  return KEYS.find((row) => row.letter && row.keys.includes(key))?.does ?? null;
}

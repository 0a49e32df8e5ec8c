// What a page without a prompt offers.

export const EXAMPLES = [
  ["A fact in six sentences", { prompt: "The old mill stands by the river. Aksel repairs violins in the mill. He was born in Odense. The river floods every spring. His sister sells bread. He has a grey dog. Question: What does Aksel repair? Answer: Aksel repairs" }],
  ["Two documents", { documents: { "mill.txt": "The mill was built in 1747 by the Holm family. It burned down twice.", "places.txt": "Odense lies on the island of Funen. The oldest mill there is from 1747." }, prompt: "When was the mill built?" }],
  ["A chat with a rule", { messages: [{ role: "system", content: "Answer in one word." }, { role: "user", content: "Aksel repairs violins. He lives in Odense with a grey dog. Where does he live?" }] }],
  ["A field of JSON", { messages: [{ role: "user", content: "Hotel Skagen has 40 rooms. It was opened in 1901. Breakfast is served from seven. Give its rooms and year as JSON." }] }],
];

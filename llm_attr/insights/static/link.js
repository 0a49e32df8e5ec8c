// What is on show, as the fragment of the address: #r=<result>&t=<first>-<stop>&u=<unit>

export function written({ result = null, tokens = null, unit = null }) {
  const parts = [result && `r=${result}`, tokens && `t=${tokens[0]}-${tokens[1]}`, unit !== null && `u=${unit}`];
  return parts.filter(Boolean).join("&");
}

export function read(fragment) {
  const given = new URLSearchParams(fragment.replace(/^#/, ""));
  const [result, tokens, unit] = ["r", "t", "u"].map((name) => given.get(name) ?? "");
  const pair = /^(\d{1,7})-(\d{1,7})$/.exec(tokens);
  return {
    result: /^[0-9a-f]{32}$/.test(result) ? result : null,
    tokens: pair && Number(pair[1]) < Number(pair[2]) ? [Number(pair[1]), Number(pair[2])] : null,
    unit: /^\d{1,7}$/.test(unit) ? Number(unit) : null,
  };
}

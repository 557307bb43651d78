// What tokenize_texts.cc does, by the npm packages `tokenizers` and `@huggingface/tokenizers`.
//
//   node tokenizer_oracle.cjs NODE_MODULES PACKAGE TOKENIZER TEXTS OUT
const fs = require("fs");
const path = require("path");

async function load(modules, name, file) {
  const found = path.join(modules, name);
  if (name === "tokenizers") {
    const tokenizer = require(found).Tokenizer.fromFile(file);
    return {
      encode: async (text) => (await tokenizer.encode(text)).getIds(),
      decode: (ids, skip) => (ids.length ? tokenizer.decode(Array.from(ids), skip) : ""),
    };
  }
  const { Tokenizer } = await import(path.join(found, "dist/tokenizers.mjs"));
  const tokenizer = new Tokenizer(JSON.parse(fs.readFileSync(file)), {});
  return {
    encode: (text) => tokenizer.encode(text).ids,
    decode: (ids, skip) => (ids.length ? tokenizer.decode(ids, { skip_special_tokens: skip, clean_up_tokenization_spaces: false }) : ""),
  };
}

async function main([modules, name, file, texts, out]) {
  const tokenizer = await load(modules, name, file);
  const all = [], keep = [], skip = [];
  for (const text of fs.readFileSync(texts, "utf8").split("\0")) {
    const ids = await tokenizer.encode(text);
    keep.push(await tokenizer.decode(ids, false));
    skip.push(await tokenizer.decode(ids, true));
    all.push(Buffer.from(Int32Array.from([...ids, -1]).buffer));
  }
  fs.writeFileSync(out + ".ids", Buffer.concat(all));
  fs.writeFileSync(out + ".keep", keep.map((text) => text + "\0").join(""));
  fs.writeFileSync(out + ".skip", skip.map((text) => text + "\0").join(""));
}

main(process.argv.slice(2)).catch((error) => {
  console.error(String(error).slice(0, 400));
  process.exit(1);
});

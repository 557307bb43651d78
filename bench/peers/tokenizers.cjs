// How fast the npm package `tokenizers` encodes and decodes, on one thread; prints what bench/tokenizer.cc prints.
//
//   npm install tokenizers
//   RAYON_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false node tokenizers.cjs TOKENIZER.json TEXT... [--repeats 5]
const fs = require("fs");
const { createRequire } = require("module");
const { Tokenizer } = createRequire(process.cwd() + "/")("tokenizers");

async function medianSeconds(repeats, work) {
  const seconds = [];
  for (let i = 0; i < repeats; ++i) {
    const start = process.hrtime.bigint();
    await work();
    seconds.push(Number(process.hrtime.bigint() - start) / 1e9);
  }
  return seconds.sort((a, b) => a - b)[Math.floor(repeats / 2)];
}

async function main(args) {
  let repeats = 5;
  const at = args.indexOf("--repeats");
  if (at >= 0) repeats = Number(args.splice(at, 2)[1]);
  const tokenizer = Tokenizer.fromFile(args.shift());
  console.log("text,bytes,tokens,encode_seconds,encode_mb_per_second,decode_seconds,decode_mb_per_second");
  for (const path of args) {
    const bytes = fs.readFileSync(path);
    const text = bytes.toString("utf8");
    const encoded = await tokenizer.encode(text, null, { addSpecialTokens: false });
    const ids = Array.from(encoded.getIds());
    const encode = await medianSeconds(repeats, () => tokenizer.encode(text, null, { addSpecialTokens: false }));
    const decode = await medianSeconds(repeats, () => tokenizer.decode(ids, false));
    const megabytes = bytes.length / 1e6;
    console.log([path, bytes.length, ids.length, encode.toFixed(4), (megabytes / encode).toFixed(2), decode.toFixed(4),
                 (megabytes / decode).toFixed(2)].join(","));
  }
}

main(process.argv.slice(2));

// llama.cpp itself, from the package node-llama-cpp: node llama_cpp.mjs PACKAGE MODEL.gguf IDS
// IDS is 1,2,3. Prints one line of JSON: for each id the logits of its successor, in the order of the vocabulary.
import {pathToFileURL} from "node:url";

const [entry, modelPath, list] = process.argv.slice(2);
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(entry).href);
const llama = await getLlama({build: "never", gpu: false, logLevel: LlamaLogLevel.error});
const model = await llama.loadModel({modelPath, gpuLayers: 0});
const context = await model.createContext({contextSize: 64, threads: 1});
const wanted = {generateNext: {logits: true, options: {temperature: 1, topK: 0, topP: 1, minP: 0}}};
const rows = await context.getSequence().controlledEvaluate(list.split(",").map((id) => [Number(id), wanted]));
console.log(JSON.stringify(rows.map((row) => [...row.next.logits].sort((a, b) => a[0] - b[0]).map(([, logit]) => logit))));
await llama.dispose();

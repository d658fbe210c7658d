// What llama.cpp answers: node greedy.mjs BASE.gguf COUNT '[[prompt token, ...], ...]' [LORA.gguf]
// Prints the tokens of greatest logit after each prompt, as JSON.
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const [base, count, prompts, lora] = process.argv.slice(2);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1 });
const model = await llama.loadModel({ modelPath: base, gpuLayers: 0 });
const adapters = lora ? { lora: { adapters: [{ filePath: lora, scale: 1 }] } } : {};
const context = await model.createContext({ contextSize: 64, threads: 1, ...adapters });
const answers = [];
for (const prompt of JSON.parse(prompts)) {
  const sequence = context.getSequence();
  const tokens = [];
  for await (const token of sequence.evaluate(prompt, { temperature: 0, yieldEogToken: true })) {
    tokens.push(token);
    if (tokens.length === Number(count)) break;
  }
  answers.push(tokens);
  await sequence.clearHistory();
  sequence.dispose();
}
process.stdout.write(JSON.stringify(answers) + "\n");
await llama.dispose();

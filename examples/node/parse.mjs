// node parse.mjs BUNDLE < utterances.txt: one JSON object a line, `{"text", "frame", "tree", "score"}` or `{"text", "error"}`.

import { createInterface } from "node:readline";
import { load } from "./parser.mjs";

const parser = await load(process.argv[2] ?? "../../models/conv-nar-topv2");
for await (const text of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  const answer = await parser.parse(text).catch((error) => ({ text, error: error.message }));
  console.log(JSON.stringify(answer));
}

// node count-objects.mjs PREFIX: how many objects there are.
import { countObjects } from "./store.mjs";

console.log(await countObjects(process.argv[2]));

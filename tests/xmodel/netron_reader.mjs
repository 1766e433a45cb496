// Opens an .xmodel with netron's own reader, as netron's page would, and prints what it saw as JSON.
// Usage: node netron_reader.mjs FOLDER_WITH_NETRON FILE
import * as fs from 'node:fs';
import * as path from 'node:path';
import { pathToFileURL } from 'node:url';

const [folder, file] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(path.join(folder, name)).href);
const protobuf = await load('protobuf.js');
const xmodel = await load('xmodel.js');
const data = new Uint8Array(fs.readFileSync(file));
let type = null;
const context = {
    tags: async () => protobuf.BinaryReader.open(data).signature(),
    set: (name) => { type = name; return name; },
    require: (name) => load(`${name.replace('./', '')}.js`),
    read: async () => protobuf.BinaryReader.open(data),
};
const factory = new xmodel.ModelFactory();
await factory.match(context);
const model = await factory.open(context);
const [graph] = model.modules;
const value = (argument) => argument.value[0];
console.log(JSON.stringify({
    type,
    name: model.name,
    format: model.format,
    inputs: graph.inputs.map((input) => [input.name, value(input).type.toString()]),
    nodes: graph.nodes.map((node) => ({
        name: node.name,
        type: node.type.name,
        category: node.type.category || '',
        attributes: node.attributes.filter((a) => !(a.value instanceof Uint8Array)).map((a) => [a.name, a.type]),
        inputs: node.inputs.map((input) => [input.name, input.value.length]),
        weights: node.inputs.flatMap((input) => input.value).filter((v) => v.initializer).length,
        output: value(node.outputs[0]).type.toString(),
    })),
}));

// What the scripts of this folder share: where a service is, and how a table of cases is run.
'use strict';

/** HOST:PORT of a service: from an argument NAME=HOST:PORT, or as the mesh says it in the environment. */
exports.place = (name) => {
  const given = process.argv.find((argument) => argument.startsWith(`${name}=`));
  if (given) return given.slice(name.length + 1);
  const prefix = name.toUpperCase().replaceAll('-', '_');
  return `${process.env[`${prefix}_SERVICE_HOST`]}:${process.env[`${prefix}_SERVICE_PORT`]}`;
};

/** Whether the cases that end servers are asked for, in place of the others. */
exports.kills = process.argv.includes('kill');

/** How long a case may take. */
const PATIENCE = 15_000;

/** Runs one case after the other, says what became of each, and ends the process. */
exports.run = async (cases) => {
  let failures = 0;
  for (const [name, check] of Object.entries(cases)) {
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error(`no end within ${PATIENCE} ms`)), PATIENCE);
    });
    const began = performance.now();
    try {
      await Promise.race([check(), late]);
      console.log(`ok ${name} (${Math.round(performance.now() - began)} ms)`);
    } catch (error) {
      failures += 1;
      console.log(`FAILED ${name}: ${String(error.stack).replaceAll('\n', '\n    ')}`);
    }
    clearTimeout(timer);
  }
  process.exit(failures ? 1 : 0);
};

/** Asks until it has an answer: a server that was ended takes a moment to be back. */
exports.eventually = async (ask) => {
  for (;;) {
    try {
      return await ask();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }
};

/** The next event of that name, or the error that came before it. */
exports.event = (emitter, name) =>
  new Promise((resolve, reject) => {
    emitter.once(name, (...values) => resolve(values.length > 1 ? values : values[0]));
    emitter.once('error', reject);
  });

/** All that a stream brings. */
exports.read = async (stream) => {
  const pieces = [];
  for await (const piece of stream) pieces.push(piece);
  return Buffer.concat(pieces);
};

/** Bytes that tell where one is missing, or in a wrong place. */
exports.pattern = (length) => {
  const bytes = Buffer.alloc(length);
  for (let i = 0; i + 4 <= length; i += 4) bytes.writeUInt32LE(Math.imul(i, 2654435761) >>> 0, i);
  return bytes;
};

/** What people and programs put into paths although no URI has it. */
exports.ODD_PATH = '/"<>{}|\\^`/a[b]?q="<>`{}';

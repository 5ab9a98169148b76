// Binds queries against several schemas with Microsoft's own parser and binder, and says where each of them binds.
//
//   node tools/kql_bind.js INPUT.json
//
// INPUT.json  {"schemas": {"<side>": {"tables": {"<table>": {"<column>": "<type>"}},
//                                    "functions": {"<name>": {"parameters": "()", "body": "{ ... }"}}}},
//              "queries": [{"name": "...", "text": "..."}]}
// Prints one JSON object: {"<name of the query>": {"<side>": ["line:column message", ...]}}; an empty list is a query
// that binds. Not here: statements that the pipeline itself sends (kql_check.js).
'use strict';
const fs = require('fs');
const { errorsOf, globalState } = require('./kql_check.js');

/** Where each query binds. */
function bind({ schemas, queries }) {
  const sides = Object.entries(schemas).map(([side, { tables, functions = {} }]) => {
    const schema = { databases: new Set(['defender']), tables, functions, views: {}, results: [] };
    return [side, globalState(schema)];
  });
  return Object.fromEntries(
    queries.map(({ name, text }) => [
      name,
      Object.fromEntries(sides.map(([side, globals]) => [side, errorsOf(text, globals)])),
    ]),
  );
}

if (require.main === module) {
  const [file] = process.argv.slice(2);
  if (!file) {
    console.error('usage: node tools/kql_bind.js INPUT.json');
    process.exit(2);
  }
  console.log(JSON.stringify(bind(JSON.parse(fs.readFileSync(file, 'utf8')))));
}

module.exports = { bind };

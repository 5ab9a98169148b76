// Checks KQL with Microsoft's own parser and binder (@kusto/language-service-next).
//
//   node tools/kql_check.js SCHEMA.json STATEMENTS.jsonl...
//
// SCHEMA.json        {"defender": {"<table>": {"<column>": "<type>"}}}: the tables of the Defender side.
// STATEMENTS.jsonl   {"side": "defender" | "adx", "kind": "query" | "command", "text": "...", "source": "where from"}
//                    {"side": ..., "kind": "table", "name": "...", "columns": {...}} adds a table to a side,
//                    {"side": ..., "kind": "database", "name": "..."} a name by which its database is called.
//
// The ADX side has the tables, functions and materialized views that the statements themselves create. Statements that
// may fail, such as those that tests send malformed on purpose, are listed in kql_allowed.json, each with its reason;
// they are counted, not hidden. Statements that differ only in instants, slice ids and plain values of the rows that
// they append are checked once.
// Prints every failing statement with line and column of each error; exits 1 when there is one, or nothing to check.
'use strict';
const fs = require('fs');
const path = require('path');
const vm = require('vm');

const home = path.dirname(require.resolve('@kusto/language-service-next/package.json'));
for (const file of ['bridge.min.js', 'Kusto.Language.Bridge.min.js']) {
  vm.runInThisContext(fs.readFileSync(path.join(home, file), 'utf8'), { filename: file });
}
const Kusto = globalThis.Kusto.Language;

// What the parser accepts without an error although it did not understand it.
const NOT_UNDERSTOOD = {
  UnknownCommand: 'not a command that the parser knows',
  PartialCommand: 'the command is not complete',
  BadCommand: 'not a command',
  SkippedTokens: 'text that belongs to nothing',
};

const NAME = String.raw`(?:\['([^']+)'\]|\["([^"]+)"\]|([A-Za-z_]\w*))`;
const PROPERTIES = String.raw`with\s*\((?:[^()"]|"[^"]*")*\)`;
const CREATE = String.raw`^\.create(?:-or-alter)?\s+(?:async\s+)?(?:ifnotexists\s+)?`;
const CREATE_TABLES = /^\.create(?:-merge)?\s+tables?\s+/;
const TABLE = new RegExp(String.raw`${NAME}\s*\(([^()]*)\)`, 'g');
const FUNCTION = new RegExp(
  String.raw`${CREATE}function\s+(?:ifnotexists\s+)?(?:${PROPERTIES}\s*)?${NAME}\s*(\([^()]*\))\s*(\{[\s\S]*)$`,
);
const VIEW = new RegExp(
  String.raw`${CREATE}materialized-view\s+(?:${PROPERTIES}\s*)?${NAME}\s+on\s+\S+\s+\S+\s*\{([\s\S]*)\}\s*$`,
);

// What makes a table of a query's result, where there is none yet.
const SET = new RegExp(
  String.raw`^\.set(?:-or-append|-or-replace)?\s+(?:async\s+)?${NAME}\s+(?:${PROPERTIES}\s*)?<\|([\s\S]*)$`,
);

const SCRIPT = new RegExp(String.raw`^\.execute\s+(?:database|cluster)\s+script\s*(?:${PROPERTIES}\s*)?<\|([\s\S]*)$`);

/** Adds what a statement creates to a side's schema; of a script, what each of its commands does. */
function learn(text, side) {
  const script = SCRIPT.exec(text);
  if (script) {
    for (const command of script[1].split(/^(?=\.)/m)) if (command.startsWith('.')) learn(command, side);
    return;
  }
  if (CREATE_TABLES.test(text)) {
    const body = text.replace(CREATE_TABLES, '').replace(new RegExp(`\\b${PROPERTIES}\\s*$`), '');
    for (const [, quoted, doubled, bare, columns] of body.matchAll(TABLE)) {
      const table = (side.tables[quoted || doubled || bare] ||= {});
      for (const column of columns.split(',').filter((each) => each.includes(':'))) {
        const [name, type] = column.split(':').map((each) => each.trim());
        // A column keeps the type that it has first: one test's older table is no other's.
        table[name.replace(/^\[['"]|['"]\]$/g, '')] ??= type;
      }
    }
  }
  const set = SET.exec(text);
  if (set) side.results.push({ name: set[1] || set[2] || set[3], query: set[4] });
  const made = FUNCTION.exec(text);
  if (made) side.functions[made[1] || made[2] || made[3]] = { parameters: made[4], body: made[5] };
  const view = VIEW.exec(text);
  if (view) side.views[view[1] || view[2] || view[3]] = view[4];
}

/** The columns of a query's result, when it binds. */
function resultOf(query, globals) {
  return Kusto.KustoCode.ParseAndAnalyze(query, globals).ResultType?.Columns;
}

/** The binder's view of one side: its tables, then the views over them, then the functions. */
function globalState(side) {
  const symbols = Kusto.Symbols;
  const members = Object.entries(side.tables).map(([name, columns]) => {
    const schema = Object.entries(columns).map(([column, type]) => `['${column}']: ${type}`);
    return new symbols.TableSymbol.$ctor7(name, `(${schema.join(', ')})`, null);
  });
  const database = () => {
    const databases = [...side.databases].map((name) => new symbols.DatabaseSymbol.ctor(name, members));
    const cluster = new symbols.ClusterSymbol.ctor('cluster', databases);
    return Kusto.GlobalState.Default.WithCluster(cluster).WithDatabase(databases[0]);
  };
  for (const { name, query } of side.results) {
    const columns = members.some((each) => each.Name === name) ? null : resultOf(query, database());
    if (columns) members.push(new symbols.TableSymbol.$ctor6(name, columns, null));
  }
  for (const [name, body] of Object.entries(side.views)) {
    const columns = resultOf(body, database());
    if (columns) members.push(new symbols.MaterializedViewSymbol.$ctor2(name, columns, body, null));
  }
  for (const [name, { parameters, body }] of Object.entries(side.functions)) {
    members.push(new symbols.FunctionSymbol.$ctor15(name, parameters, body, symbols.Tabularity.Tabular, null));
  }
  return database();
}

/** Line and column, from 1, of an offset. */
function position(text, offset) {
  const before = text.slice(0, offset).split('\n');
  return `${before.length}:${before[before.length - 1].length + 1}`;
}

// For every command, also one that it has understood, the parser looks for the nearest of all commands that the text is
// the beginning of. Nine tenths of the time go there, and its outcome matters only where no command was understood.
const { PartialParser } = Kusto.Parsing;
const scanPartialBest = PartialParser.ScanPartialBest;

/** The code of a statement; `nearest` says whether the parser may look for the nearest command. */
function analyzed(text, globals, nearest) {
  PartialParser.ScanPartialBest = nearest ? scanPartialBest : () => -1;
  try {
    return Kusto.KustoCode.ParseAndAnalyze(text, globals);
  } finally {
    PartialParser.ScanPartialBest = scanPartialBest;
  }
}

/** Every error of one statement: what the parser and binder report, and what the parser did not understand. */
function errorsOf(text, globals) {
  const errors = errorsIn(text, analyzed(text, globals, false));
  return errors.length ? errorsIn(text, analyzed(text, globals, true)) : errors;
}

function errorsIn(text, code) {
  const found = code.GetDiagnostics();
  const errors = [];
  for (let i = 0; i < found.Count; i++) {
    const each = found.getItem(i);
    if (each.Severity === 'Error') errors.push(`${position(text, each.Start)} ${each.Message}`);
  }
  if (errors.length) return errors;
  const visit = (node) => {
    const kind = System.Enum.toString(Kusto.Syntax.SyntaxKind, node.Kind);
    // The list of skipped tokens is there even when it is empty.
    const complaint = NOT_UNDERSTOOD[kind];
    if (complaint && node.Width > 0) errors.push(`${position(text, node.TextStart)} ${complaint}`);
    for (let i = 0; i < node.ChildCount; i++) {
      const child = node.GetChild(i);
      if (child) visit(child);
    }
  };
  visit(code.Syntax);
  return errors;
}

const ROWS = /(\bdatatable\s*\([^()]*\)\s*\[)([\s\S]*)\]/;

/** A statement without what makes each slice's differ: well-formed instants, slice ids, plain values of rows. */
function shape(text) {
  return text
    .replace(/datetime\(\d{4}-\d\d-\d\d(?:T\d\d:\d\d:\d\d(?:\.\d{1,7})?Z)?\)/g, 'datetime(2026-01-01)')
    .replace(/\b[0-9a-f]{32}\b/g, '0'.repeat(32))
    .replace(ROWS, (_, head, rows) => {
      const plain = rows
        .replace(/"[\w :,.+\-[\]()/]*"/g, '"x"')
        .replace(/\b(?:long|int)\(\d+\)/g, 'long(1)')
        .replace(/\breal\([\d.]+\)/g, 'real(1)');
      return `${head}${plain}]`;
    });
}

/** What several JSON lines files hold, each statement and table once. */
function readStatements(files) {
  const statements = new Map();
  for (const file of files) {
    for (const line of fs.readFileSync(file, 'utf8').split('\n').filter((each) => each.trim())) {
      const statement = { source: path.basename(file), ...JSON.parse(line) };
      const key = JSON.stringify([
        statement.side,
        statement.kind,
        statement.text ? shape(statement.text) : [statement.name, statement.columns],
      ]);
      const known = statements.get(key);
      if (known) known.times += 1;
      else statements.set(key, { ...statement, times: 1 });
    }
  }
  return [...statements.values()];
}

/** What each side has: the given tables, and what the statements create. */
function sidesOf(schema, statements) {
  const none = () => ({ functions: {}, views: {}, results: [] });
  const sides = {
    defender: { databases: new Set(['defender']), tables: structuredClone(schema.defender), ...none() },
    adx: { databases: new Set(['defender']), tables: {}, ...none() },
  };
  for (const statement of statements) {
    const side = sides[statement.side];
    if (statement.kind === 'database') side.databases.add(statement.name);
    else if (statement.kind === 'table') Object.assign((side.tables[statement.name] ||= {}), statement.columns);
    else if (statement.side === 'adx') learn(statement.text, side);
  }
  return sides;
}

/** The check of some files; gives its exit code. */
function main([schemaFile, ...files], print = console.log) {
  const allowed = JSON.parse(fs.readFileSync(path.join(__dirname, 'kql_allowed.json'), 'utf8')).map((each) => ({
    ...each,
    pattern: new RegExp(each.pattern, 's'),
    count: 0,
  }));
  const everything = readStatements(files);
  const statements = everything.filter((each) => each.text);
  const sides = sidesOf(JSON.parse(fs.readFileSync(schemaFile, 'utf8')), everything);
  const globals = { defender: globalState(sides.defender), adx: globalState(sides.adx) };
  const counts = {};
  let failed = 0;
  for (const { side, kind, text, source, times } of statements) {
    counts[`${source}: ${side} ${kind}`] = (counts[`${source}: ${side} ${kind}`] || 0) + times;
    const errors = errorsOf(text, globals[side]);
    if (!errors.length) continue;
    const reason = allowed.find((each) => each.side === side && each.pattern.test(text));
    if (reason) {
      reason.count += 1;
      continue;
    }
    failed += 1;
    print(`FAILED ${source} (${side} ${kind})\n${text.replace(/^/gm, '    ')}`);
    for (const error of errors) print(`  at ${error}`);
  }
  for (const name of Object.keys(counts).sort()) print(`${String(counts[name]).padStart(6)}  ${name}`);
  for (const { reason, count } of allowed) print(`${String(count).padStart(6)}  may fail: ${reason}`);
  const silent = files.filter((file) => !statements.some((each) => (each.file || each.source) === path.basename(file)));
  for (const file of silent) print(`FAILED ${file} has no statement: nothing was checked`);
  const total = statements.reduce((sum, { times }) => sum + times, 0);
  const shapes = statements.length;
  print(`${total} statements (${shapes} shapes) went through Microsoft's parser, ${failed} shapes failed`);
  return failed || silent.length || !statements.length ? 1 : 0;
}

if (require.main === module) {
  if (process.argv.length < 4) {
    console.error('usage: node tools/kql_check.js SCHEMA.json STATEMENTS.jsonl...');
    process.exit(2);
  }
  process.exit(main(process.argv.slice(2)));
}

module.exports = { errorsOf, globalState, learn, main };

// The check itself: what it has to find, and what it has to let through.
'use strict';
const assert = require('node:assert');
const { execFileSync } = require('node:child_process');
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const test = require('node:test');

const { main } = require('./kql_check.js');

const tool = path.join(__dirname, 'kql_check.js');
const DEFENDER = { defender: { DeviceInfo: { Timestamp: 'datetime', DeviceId: 'string' } } };

/** Runs the check over statements; gives its exit code and what it printed. */
function check(...lines) {
  const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'kql-'));
  const schema = path.join(folder, 'schema.json');
  const statements = path.join(folder, 'statements.jsonl');
  fs.writeFileSync(schema, JSON.stringify(DEFENDER));
  fs.writeFileSync(statements, lines.map((line) => JSON.stringify(line) + '\n').join(''));
  const printed = [];
  const status = main([schema, statements], (line) => printed.push(line));
  fs.rmSync(folder, { recursive: true });
  return { status, stdout: printed.join('\n') };
}

const adx = (text) => ({ side: 'adx', kind: 'command', text });
const defender = (text) => ({ side: 'defender', kind: 'query', text });

test('a column that a table does not have is found, with its place', () => {
  const { status, stdout } = check(defender('DeviceInfo\n| where Nope == 1'));
  assert.strictEqual(status, 1);
  assert.match(stdout, /at 2:9 The name 'Nope'/);
});

test('commands that the parser reads over in silence are found', () => {
  for (const text of ['.bogus table', '.show tables;;', '.show tables details bogus']) {
    assert.strictEqual(check(adx(text)).status, 1, text);
  }
});

test('tables, functions and materialized views are known once a statement creates them', () => {
  const { status, stdout } = check(
    adx('.create-merge tables\n    A (Time: datetime, [\'odd name\']: string),\n    B (Records: dynamic)\nwith (folder = "x (y)")'),
    adx('.create-or-alter function with (docstring = "rows (all)", view = true)\nVwA() {\n    A | project Time\n}'),
    adx('.create async materialized-view with (backfill = true) MvA on table A { A | summarize arg_max(Time, *) by [\'odd name\'] }'),
    adx('.drop materialized-view MvA'),
    { side: 'adx', kind: 'query', text: "VwA | union (MvA | project Time) | where Time > ago(1d)" },
  );
  assert.strictEqual(status, 0, stdout);
});

test('what a script creates is known, and what its commands say is checked', () => {
  const script = (text) => adx(`.execute database script with (ThrowOnErrors=true) <|\n${text}`);
  const made = script(
    '.create-merge table A (Time: datetime)\n.create-or-alter function F() {\n    A | project Time\n}\n\n.create-merge table A (B: long)',
  );
  const query = { side: 'adx', kind: 'query', text: 'F | join kind=inner (A | where B > 1) on Time' };
  assert.strictEqual(check(made, query).status, 0);
  const { status, stdout } = check(made, script('.create-or-alter function G() {\n    A | project Nope\n}'));
  assert.strictEqual(status, 1);
  assert.match(stdout, /The name 'Nope'/);
  assert.strictEqual(check(made, script('.create-merge table C (D: long)\n.bogus E')).status, 1);
});

test('a column keeps the type that a table had first', () => {
  const query = { side: 'adx', kind: 'query', text: 'A | where B startswith "x"' };
  const made = [adx('.create-merge table A (B: string)'), adx('.create-merge table A (B: long)')];
  assert.strictEqual(check(...made, query).status, 0);
  assert.strictEqual(check(...made.reverse(), query).status, 1);
});

test('a command that ends too early is told with what is missing', () => {
  const { status, stdout } = check(adx('.create-merge table A (Time: '));
  assert.strictEqual(status, 1);
  assert.match(stdout, /at 1:\d+ (Expected|Missing|the command is not complete|text)/);
});

test('a table made of the result of a query is known with its columns', () => {
  const set = adx(".set-or-append Made <| print A = 'x', B = 1");
  assert.strictEqual(check(set, { side: 'adx', kind: 'query', text: 'Made | where B > 0 and A == ""' }).status, 0);
  assert.strictEqual(check(set, { side: 'adx', kind: 'query', text: 'Made | where C > 0' }).status, 1);
});

test('a table that a test added to the Defender side is known', () => {
  const table = { side: 'defender', kind: 'table', name: 'Contoso', columns: { Seen: 'datetime' } };
  assert.strictEqual(check(table, defender('Contoso | where Seen > ago(1d)')).status, 0);
});

test('statements that differ only in instants and slice ids are one shape', () => {
  const day = (number) => defender(`DeviceInfo | where Timestamp >= datetime(2026-08-0${number}T00:00:00.000000Z)`);
  assert.match(check(day(1), day(2)).stdout, /^2 statements \(1 shapes\)/m);
});

test('an instant that is not one is not taken for another', () => {
  const { stdout } = check(
    defender('DeviceInfo | where Timestamp >= datetime(2026-08-01)'),
    defender('DeviceInfo | where Timestamp >= datetime(first of August'),
  );
  assert.match(stdout, /^2 statements \(2 shapes\) .* 1 shapes failed/m);
});

test('nothing to check is a failure', () => {
  const { status, stdout } = check();
  assert.strictEqual(status, 1);
  assert.match(stdout, /nothing was checked/);
});

test('a statement that may fail is counted with its reason', () => {
  const { status, stdout } = check(adx('.get kusto identity token'));
  assert.strictEqual(status, 0);
  assert.match(stdout, /1 {2}may fail: azure-kusto-ingest/);
});

test('without arguments it says how it is used', () => {
  assert.throws(() => execFileSync(process.execPath, [tool], { stdio: 'pipe' }), /usage/);
});

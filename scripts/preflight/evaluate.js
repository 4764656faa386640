// Evaluates the rules of cdk-preflight over templates: JSON on standard input, JSON on standard output. What cdk-preflight has
// for an application of the CDK (lib/private/enforce.js) is used as it is: its version is pinned in package-lock.json.
"use strict";

const { readFileSync } = require("node:fs");
const { createRequire } = require("node:module");
const path = require("node:path");

const [environment] = process.argv.slice(2);
const find = createRequire(path.resolve(environment, "package.json"));
const { BUNDLED_LIBS, BUNDLED_RULES } = find("cdk-preflight/lib/rules.generated.js");
const { deployEnvironmentModule, loadEngine, mergeRuleModules, prune } = find("cdk-preflight/lib/private/enforce.js");
const { RegoEngine, TemplateContent } = loadEngine();

const { accountId, documents } = JSON.parse(readFileSync(0, "utf8"));
const libraries = BUNDLED_LIBS.map(({ name, rego }) => ({ name, content: rego }));
const findings = [];
const used = new Set();
for (const region of new Set(documents.map((each) => each.region))) {
  const here = documents.filter((each) => each.region === region);
  // Only the rules for our types of resources, which find the same in a third of the time.
  const types = new Set(here.flatMap(({ template }) => Object.values(template.Resources).map((each) => each.Type)));
  const rules = prune(BUNDLED_RULES, types);
  rules.forEach((each) => used.add(each.id));
  // One engine for each region, which some rules compare with the region in an ARN.
  const engine = new RegoEngine({
    customRules: [...libraries, ...mergeRuleModules(rules), deployEnvironmentModule(region, accountId)],
  });
  for (const { name, template } of here) {
    const report = engine.validateTemplate(new TemplateContent(JSON.stringify(template), name), {
      pseudoParameterOverrides: { accountId, region },
    });
    for (const each of report.diagnostics) {
      // The engine's own warnings are style. Those of cdk-preflight are what AWS rejects, but nobody could try.
      if (each.source !== "CUSTOM" && each.severity !== "ERROR" && each.severity !== "FATAL") continue;
      const resource = each.entity?.logicalId ?? "";
      const link = each.documentationUrl ?? "";
      findings.push({ document: name, rule: each.ruleId, resource, message: each.message, link });
    }
  }
  engine.free();
}
process.stdout.write(JSON.stringify({ rules: { all: BUNDLED_RULES.length, used: used.size }, findings }));

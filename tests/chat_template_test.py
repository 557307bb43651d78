"""Chat templates render as Jinja2 does under `transformers`, which is the specification, and as @huggingface/jinja does.

chat_template_test.py PROGRAM                        compare with what Jinja2 said (chat_templates/expected.json)
chat_template_test.py PROGRAM --oracle NODE_MODULES  ask both again, print where they differ, and write the file

PROGRAM is render_template. Asking needs python3-jinja2 and node.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import chat_template_cases as cases

HERE = pathlib.Path(__file__).resolve().parent
EXPECTED = HERE / "chat_templates/expected.json"


def all_cases():
    """(name, template, variables)"""
    for path in sorted((HERE / "chat_templates").glob("*.jinja")):
        for name, variables in cases.CONVERSATIONS.items():
            yield f"{path.stem}: {name}", path.read_text(), variables
    for i, snippet in enumerate(cases.SNIPPETS):
        yield f"snippet {i}: {snippet[:60]}", snippet, cases.VARIABLES


def ours(program):
    listed = [{"template": template, "variables": variables} for _, template, variables in all_cases()]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(listed, file)
        file.flush()
        return json.loads(subprocess.run([program, file.name], check=True, capture_output=True).stdout)


def jinja2_environment():
    """As transformers/utils/chat_template_utils.py makes it."""
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("_say"), [], [], body).set_lineno(line)

        def _say(self, caller):
            return caller()

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    return environment


def by_jinja2():
    environment = jinja2_environment()
    for _, template, variables in all_cases():
        try:
            yield {"text": environment.from_string(template).render(**variables)}
        except Exception as error:
            yield {"error": str(error)}


NODE = """
const { Template } = require(process.argv[1] + "/@huggingface/jinja");
const cases = JSON.parse(require("fs").readFileSync(process.argv[2]));
console.log(JSON.stringify(cases.map(({ template, variables }) => {
  try { return { text: new Template(template).render(variables) }; } catch (error) { return { error: String(error) }; }
})));
"""


def by_node(modules):
    listed = [{"template": template, "variables": variables} for _, template, variables in all_cases()]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(listed, file)
        file.flush()
        return json.loads(subprocess.run(["node", "-e", NODE, modules, file.name], check=True, capture_output=True).stdout)


def same(a, b):
    return a.get("text") == b.get("text") and ("error" in a) == ("error" in b)


def ask(program, modules):
    expected = {}
    agree = 0
    rows = list(zip(all_cases(), by_jinja2(), by_node(modules), ours(program)))
    for (name, _, _), python, node, choir in rows:
        expected[name] = {"error": True} if "error" in python else python
        agree += same(python, node)
        if not same(python, choir):
            print(f"CHOIR {name}\n  jinja2 {python}\n  choir  {choir}")
        elif not same(python, node):
            print(f"node  {name}\n  jinja2 {str(python)[:300]}\n  node   {str(node)[:300]}")
    print(f"{len(rows)} cases, jinja2 and node agree on {agree}")
    EXPECTED.write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")


def compare(program):
    expected = json.loads(EXPECTED.read_text())
    failures = 0
    results = ours(program)
    for (name, _, _), result in zip(all_cases(), results):
        if not same(result, expected[name]):
            failures += 1
            print(f"{name}\n  {result}\n  expected {expected[name]}")
    print(f"{len(results)} templates and variables, {failures} differ")
    return 1 if failures else 0


if __name__ == "__main__":
    if "--oracle" in sys.argv:
        ask(sys.argv[1], sys.argv[3])
        sys.exit(0)
    sys.exit(compare(sys.argv[1]))

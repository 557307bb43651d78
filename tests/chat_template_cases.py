"""Conversations and small templates for chat_template_test.py."""

WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather of a place.",
    "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "City, e.g. “Köln” or <Rome> & 'Bari'"},
        "unit": {"type": "string", "enum": ["celsius", "kelvin"], "default": "celsius"},
        "days": {"type": "array", "items": {"type": "integer"}, "default": [1, 2.5, 1e22, -0.0, None, True]},
        "where": {"oneOf": [{"type": "object", "properties": {"lat": {"type": "number"}}},
                            {"type": ["string", "null"], "default": "\u0001\u2028\\\"\n"}]},
        "rows": {"type": "array", "items": {"type": "object", "properties": {"a": {"type": "boolean"}}}}}}}}
CLOCK = {"type": "function", "function": {"name": "now", "description": "The time.", "parameters": {}}}
TOOLS = [WEATHER, CLOCK]


def call(name, arguments, number="abcdefghi"):
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


SYSTEM, HELLO = say("system", "Be brief.\n"), say("user", "  Hello, wörld 👋 ")
ANSWER = say("assistant", " Hi! ")
CALLED = [say("user", "Weather?"), say("assistant", None, tool_calls=[call("get_weather", {"place": "Köln", "days": [1]})]),
          say("tool", "{\"rain\": true}", name="get_weather", tool_call_id="abcdefghi")]
MARKS = {"bos_token": "<s>", "eos_token": "</s>"}
PROMPT = {**MARKS, "add_generation_prompt": True}

CONVERSATIONS = {
    "one": {**PROMPT, "messages": [HELLO]},
    "system": {**PROMPT, "messages": [SYSTEM, HELLO]},
    "turns": {**PROMPT, "messages": [SYSTEM, HELLO, ANSWER, say("user", "More?"), say("assistant", "No."), HELLO]},
    "closed": {**MARKS, "messages": [HELLO, ANSWER], "add_generation_prompt": False},
    "nothing": {"messages": [HELLO, ANSWER]},
    "thoughts": {**PROMPT, "enable_thinking": False, "messages": [
        HELLO, say("assistant", "<think>\nhm\n</think>\n\nYes."), HELLO, say("assistant", "<think>\nso\n</think>\n\nNo.")]},
    "reasoning": {**MARKS, "messages": [HELLO, say("assistant", "Yes.", reasoning_content="\nbecause\n")]},
    "tools": {**PROMPT, "messages": [SYSTEM, HELLO], "tools": TOOLS},
    "called": {**PROMPT, "messages": CALLED, "tools": TOOLS},
    "answered": {**MARKS, "messages": [SYSTEM, *CALLED, say("assistant", "It rains."), say("user", "Thanks")]},
    "two calls": {**PROMPT, "messages": [
        HELLO, say("assistant", "Let me see.", tool_calls=[call("now", {}), call("get_weather", {"place": "X"}, "123456789")]),
        say("tool", "12:00", tool_call_id="abcdefghi"), say("tool", "rain", tool_call_id="123456789")]},
    "short id": {**PROMPT, "messages": [HELLO, say("assistant", "", tool_calls=[call("now", {}, "1")])]},
    "wrong order": {**PROMPT, "messages": [ANSWER, HELLO]},
    "twice the user": {**PROMPT, "messages": [HELLO, HELLO]},
    "unknown role": {**PROMPT, "messages": [say("narrator", "Once")]},
    "documents": {**PROMPT, "messages": [HELLO], "documents": [{"text": "A"}, {"text": "B"}], "controls": {"length": "short"},
                  "tools": [CLOCK]},
    "silence": {**PROMPT, "messages": [say("system", "S"), say("user", "")]},
}

VARIABLES = {
    "text": "Hello  World", "accents": "Ünï ß é", "empty": "", "number": 42, "real": 2.5, "yes": True, "nothing": None,
    "words": ["pear", "Apple", "fig", "apple"], "numbers": [3, 1, 2, 3], "mapping": {"b": 1, "a": {"c": [1, 2]}, "items": 5},
    "people": [{"name": "Ann", "age": 30, "tags": ["x"]}, {"name": "bob", "age": 4}, {"name": "Cid", "age": 30}],
    "lines": "one\n  two\n\nthree", "html": "<a href=\"x\">&'</a>", "deep": {"list": [{"key": [10, 20]}]},
}

# One line each; the last part of the test's message names the line.
SNIPPETS = r"""
{{ 1 + 2 * 3 - 4 // 3 }} {{ 7 % 3 }} {{ -7 % 3 }} {{ -7 // 2 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ 10 / 5 }}
{{ 1.0 }} {{ 0.1 + 0.2 }} {{ 1e3 if false else 100000000000000000.0 }} {{ 0.00001 }} {{ 1.5e0 if 0 else 3.0 * 2 }}
{{ "a" + 'b' ~ 1 ~ none ~ true ~ 1.5 }} {{ "ab" * 3 }} {{ [1] * 2 + [3] }} {{ (1, 2) }} {{ (1,) }} {{ () }}
{{ [1, 'a', "it's", "q\"", none, true, 1.0, {'k': [1]}] }} {{ {'a': 1, "b": 'x\ny'} }}
{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 1 == 1.0 }} {{ true == 1 }} {{ '1' == 1 }} {{ none == false }} {{ [1] == [1] }} {{ (1,) == [1] }}
{{ not yes }} {{ yes and number }} {{ empty or text }} {{ none or 0 or '' }} {{ not empty and not none }} {{ 1 if number }}|{{ 1 if empty }}|
{{ 'a' in 'abc' }} {{ 'z' not in words }} {{ 'a' in mapping }} {{ 3 in numbers }} {{ not 3 in numbers }} {{ 'x' if 'b' in mapping else 'y' }}
{{ text[0] }}{{ text[-1] }} {{ text[1:3] }} {{ text[::-1] }} {{ words[1:] }} {{ numbers[::2] }} {{ numbers[-2:] }} {{ numbers[5:] }} {{ numbers[::-2] }} {{ accents[1:4] }}
{{ words[0] }} {{ words[-1] }} {{ words[99] is defined }} {{ deep.list[0].key[1] }} {{ deep['list'][0]['key'] }} {{ words.0 }} {{ mapping['items'] }} {{ mapping.a.c }}
{{ missing }}|{{ missing is defined }}|{{ mapping.missing is defined }}|{{ missing | default('d') }}|{{ empty | default('d') }}|{{ empty | default('d', true) }}|{{ none | d('x', boolean=true) }}
{{ text | upper }} {{ text | lower }} {{ accents | upper }} {{ accents | lower }} {{ 'hELLO wORLD-foo' | title }} {{ 'hELLO' | capitalize }} {{ 'they\'re bill\'s'.title() }} {{ '' | capitalize }}
{{ '  x ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ '  x '.lstrip() }}|{{ '  x '.rstrip() }}|{{ 'xyx'.strip('x') }}|{{ '\n a\t\n'.strip() }}|{{ 'ab'.lstrip('ba') }}
{{ words | length }} {{ text | length }} {{ accents | length }} {{ mapping | count }} {{ words | first }} {{ words | last }} {{ [] | first is defined }} {{ text | first }}
{{ words | join }} {{ words | join(', ') }} {{ numbers | join('-') }} {{ people | join('/', attribute='name') }} {{ text | join('.') }} {{ mapping | join(',') }}
{{ words | sort }} {{ words | sort(reverse=true) }} {{ words | sort(case_sensitive=true) }} {{ numbers | sort }} {{ people | sort(attribute='age') | map(attribute='name') | list }} {{ numbers | unique | list }} {{ words | unique | list }}
{{ numbers | sum }} {{ people | sum(attribute='age') }} {{ numbers | min }} {{ numbers | max }} {{ words | max }} {{ [1.5, 2] | sum }} {{ -3 | abs }} {{ -3.5 | abs }}
{{ 2.5 | round }} {{ 3.14159 | round(2) }} {{ 2.1 | round(0, 'ceil') }} {{ 2.9 | round(method='floor') }} {{ '12' | int }} {{ 'x' | int }} {{ 'x' | int(7) }} {{ 3.9 | int }} {{ '1.5' | float }} {{ 'x' | float }} {{ 3 | float }} {{ ' 5 ' | int }}
{{ numbers | reverse | list }} {{ text | reverse }} {{ text | list }} {{ 5 | string + 'x' }} {{ mapping | list }} {{ 'abcdef' | batch(4, '-') | list }} {{ numbers | batch(3) | list }}
{{ people | selectattr('age', 'equalto', 30) | map(attribute='name') | list }} {{ people | rejectattr('tags', 'defined') | map(attribute='name') | join(',') }} {{ people | selectattr('tags') | list | length }} {{ numbers | select('odd') | list }} {{ numbers | reject('gt', 2) | list }} {{ numbers | select | list }}
{{ words | map('upper') | join(' ') }} {{ words | map('replace', 'p', 'P') | list }} {{ people | map(attribute='tags', default='none') | list }} {{ people | map(attribute='tags.0') | list }} {{ deep | map('length') | list }}
{{ 'a,b,,c'.split(',') }} {{ 'a b  c '.split() }} {{ 'a-b-c'.split('-', 1) }} {{ 'a-b-c'.rsplit('-', 1) }} {{ ''.split() }} {{ ''.split(',') }} {{ lines.splitlines() }} {{ ' a b c'.split(none, 1) }}
{{ text.startswith('He') }} {{ text.endswith(('x', 'ld')) }} {{ text.replace('l', 'L') }} {{ text.replace('l', 'L', 2) }} {{ 'aaa' | replace('a', 'b', 2) }} {{ 'ab'.replace('', '-') }} {{ text.find('World') }} {{ text.find('q') }} {{ text.count('l') }} {{ 'abc'.isdigit() }} {{ '12'.isdigit() }}
{{ mapping.items() | list }} {{ mapping.keys() | list }} {{ mapping.values() | list }} {{ mapping.get('b') }} {{ mapping.get('zz') }} {{ mapping.get('zz', 5) }} {{ mapping | items | list }} {{ mapping | dictsort }} {{ missing | items | list }}
{{ mapping | tojson }} {{ text | tojson }} {{ html | tojson }} {{ accents | tojson }} {{ [1.0, 1e100, none, true, 'é"\\\n\t'] | tojson }} {{ {} | tojson }} {{ [] | tojson }} {{ {'a': 1} | tojson(indent=2) }} {{ [1, {'b': []}] | tojson(indent=1) }}
{{ mapping | tojson(sort_keys=true) }} {{ numbers | tojson(separators=(',', ':')) }} {{ accents | tojson(ensure_ascii=true) }} {{ '👋' | tojson(ensure_ascii=true) }}
{{ html | e }} {{ html | escape }} {{ html | safe }} {{ lines | indent }}|{{ lines | indent(2, true) }}|{{ lines | indent(2, blank=true) }}|{{ lines | indent('> ', first=true) }}
{{ number is number }} {{ number is integer }} {{ real is float }} {{ yes is number }} {{ yes is boolean }} {{ yes is integer }} {{ text is string }} {{ words is iterable }} {{ words is sequence }} {{ mapping is mapping }} {{ mapping is iterable }} {{ nothing is none }} {{ text is mapping }} {{ number is iterable }}
{{ 4 is even }} {{ 4 is odd }} {{ 9 is divisibleby 3 }} {{ 9 is divisibleby(2) }} {{ number is eq 42 }} {{ number is equalto(41) }} {{ number is sameas 42 }} {{ 1 is in [1] }} {{ yes is true }} {{ 1 is true }} {{ none is false }} {{ 'a' is lower }} {{ 'A' is upper }} {{ 5 is gt 4 }} {{ 5 is not gt 4 and 1 }} {{ range is callable }}
{% for x in numbers %}{{ loop.index }}/{{ loop.length }}:{{ x }}{{ ',' if not loop.last }}{% endfor %}{% for x in [] %}a{% else %}none{% endfor %}{% for x in missing %}a{% else %}gone{% endfor %}
{% for k, v in mapping.items() %}{{ k }}={{ v }};{% endfor %}{% for k in mapping %}{{ k }}{% endfor %}{% for c in 'añb' %}[{{ c }}]{% endfor %}{% for a, b in [(1, 2), [3, 4]] %}{{ a + b }} {% endfor %}
{% for x in numbers if x > 1 %}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ x }} {% endfor %}{% for x in numbers %}{% if x == 1 %}{% continue %}{% endif %}{% if loop.index == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in numbers %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }} {{ loop.cycle('odd', 'even') }} {{ loop.changed(x) }};{% endfor %}{% for x in [1, 1, 2] %}{{ loop.changed(x) }}{% endfor %}
{% for x in [1, 2] %}{% for y in 'ab' %}{{ loop.depth }}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}{% set n = namespace(s=0) %}{% for x in numbers %}{% set n.s = n.s + x %}{% endfor %}{{ n.s }}
{% set x = 1 %}{% for y in [1] %}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% if true %}{% set x = 3 %}{% endif %}{{ x }}{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set t %}<{{ x }}>{% endset %}{{ t }}{% set u | upper | trim %} ab {% endset %}{{ u }}
{% macro m(a, b=2, c='x') %}{{ a }}-{{ b }}-{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c='y') }}{{ m(b=1, a=0) }}{{ m() }}{% macro r(n) %}{{ n }}{% if n > 0 %}{{ r(n - 1) }}{% endif %}{% endmacro %}{{ r(3) }}
{% macro box(t) %}[{{ t }}:{{ caller() }}]{% endmacro %}{% call box('a') %}inner {{ text }}{% endcall %}{% macro each(l) %}{% for i in l %}{{ caller(i) }}{% endfor %}{% endmacro %}{% call(i) each([1, 2]) %}<{{ i }}>{% endcall %}
{% filter upper %}abc {{ text }}{% endfilter %}{% filter replace('a', 'b') | trim %} aa {% endfilter %}{% with q = 5, w = 6 %}{{ q + w }}{% endwith %}{{ q is defined }}
{% raw %}{{ not this }} {% if %}{% endraw %}{# a comment {{ 1 }} #}after{%- if true -%}   x   {%- endif -%} y
{% set s = namespace(a=1) %}{% set s.b = 2 %}{{ s.a }}{{ s.b }}{{ s.c is defined }}{{ range(3) | list }}{{ range(1, 8, 3) | list }}{{ range(3, 0, -1) | list }}{{ dict(a=1, b=2) }}
{{ 'x' 'y' }} {{ "\x41\u00e9\t|" }} {{ 'a\
b' }} {{ '\d' }} {{ 1_000 }} {{ {'a': {'b': {'c': 1}}}['a']['b'] }} {{ ((1)) }} {{ -number }} {{ +number }} {{ - -3 }} {{ 2 - -3 }}
{{ (words | first).upper() }} {{ text.lower().split()[0] | capitalize }} {{ (1, 2)[0] }} {{ [1, 2, 3][1:] | sum }} {{ 'abc'[1] ~ 'abc'[-1:] }} {{ {'a': 1}.a }} {{ people[0].name | lower | replace('n', 'm') }}
{{ 1 if yes else 2 if empty else 3 }} {{ (1 if empty else 2) + 1 }} {{ yes if not empty else no }} {{ text is string and number is number or missing }} {{ 'a' if text is defined and text }}
{{ "true" if true else "false" }}{{ True }}{{ False }}{{ None }}{{ true | string }}{{ none | string }}{{ [none] | string }}{{ mapping | string }}{{ 1.0 | string }}{{ 'a' | string | length }}
{{ undefined_thing.attribute }}
{{ 1 + 'a' }}
{{ missing + 1 }}
{{ missing() }}
{{ none.x }}|{{ none.x is defined }}
{{ none['x'] is defined }}{{ number.real_thing is defined }}{{ text.nope is defined }}
{{ 1 / 0 }}
{{ [1, 2].append(3) }}
{{ raise_exception('no ' ~ number) }}
{{ 'a' < 1 }}
{{ none | length }}
{% for x in none %}{{ x }}{% endfor %}
{% for x in 5 %}{{ x }}{% endfor %}
{{ text | nofilter }}
{{ text is notest }}
{% set text.x = 1 %}
{{ m(1) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=2) }}
{% if x %}
{% endif %}
{% for x in y %}{% endif %}
{{ 'open }}
{{ 1 + }}
{{ a b }}
{% unknown %}
{{ (1 }}
{{ {'a': } }}
{# open
{% set %}
{{ }}
""".strip("\n").split("\n")
# Two of the lines above are one template with a line end inside a string.
_AT = next(i for i, line in enumerate(SNIPPETS) if line.endswith("'a\\"))
SNIPPETS[_AT:_AT + 2] = ["\n".join(SNIPPETS[_AT:_AT + 2])]

# White space around tags, with real line ends.
SNIPPETS += [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  {%- if true -%}\n  b\n  {%- endif -%}\nc\n",
    "{% if true %}\n\nx\n{% endif %}", "  {{ 1 }}\n  {{- 2 -}}  \n3", "  {# c #}\nx\n  {#- c -#}\n y", "a {% if true %} b {% endif %} c",
    "a\n\t {%+ if true %}\nb\n {% endif +%}\nc", "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n", "\n\n{% set x = 1 %}\n\n{{ x }}\n\n",
    "{% if true %}  \n x{% endif %}", "x  {%- set y = 1 %}  y\n", "\r\na\r\n{% if true %}\r\nb\r\n{% endif %}\r\n", "{%- raw -%}  {{ x }}  {%- endraw -%} z",
    "{% set x %}\n  a\n{% endset %}\n[{{ x }}]", "{{ 'a' }}\n{{ 'b' }}\n", "\u3000{% if true %}\u00a0x{% endif %}", "a{# x\ny #}\nb",
    "{% macro f() %}\n  x\n{% endmacro %}\n{{ f() }}|", "{%- for m in [1] %}\n    {%- if m %}\n        {{- m }}\n    {%- endif %}\n{%- endfor %}\n",
]

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Owns: the expected outputs of tests/unit/text/data/templates.jsonl: small templates, each with the variables
# it sees and what Jinja2 3.1.6 makes of it, set up as transformers sets it up. Needs jinja2 (not part of the
# tests' own requirements: the fixture is committed). Written snippets cover each filter, test, method and
# statement; generated ones combine them.
#   make_templates.py [--count N] [--seed S] >data/templates.jsonl
import argparse
import datetime
import json
import random
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 9, 7, 4, 5, 9)


class Generation(Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


class Refused(Exception):
    pass


def environment(optimized):
    def raise_exception(message):
        raise Refused(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(
        optimized=optimized, trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda format: NOW.strftime(format)
    return env


CONTEXT = {
    "s": "Hello, World", "t": "  two\twords \n", "empty": "", "u": "naïve Ünïcode ß Σίσυφος ΟΔΟΣ 日本語 🎉",
    "lines": "one\ntwo\r\n\nfour\n", "quote": "it's \"both\"", "tags": "<b>x</b> & <i>y</i>",
    "n": 42, "z": 0, "neg": -7, "f": 2.5, "big": 1e22, "small": 1.5e-7, "whole": 3.0, "yes": True, "no": False,
    "nil": None, "l": [3, 1, 2], "names": ["bob", "Alice", "carol", "alice"], "mixed": [1, "a", None, 2.5, True],
    "nested": [[1, 2], [3, [4]]], "d": {"b": 1, "a": "x", "items": "an item", "c": None},
    "deep": {"x": {"y": [{"z": "found"}]}}, "nothing": [], "blank": {},
    "people": [{"name": "Ann", "age": 30, "city": "Rome", "tags": ["a"]},
               {"name": "bob", "age": 25, "city": "oslo", "tags": []},
               {"name": "Cid", "age": 30, "city": "Rome"}],
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <|im_end|>"},
                 {"role": "assistant", "content": None, "tool_calls": [
                     {"id": "call_1", "type": "function",
                      "function": {"name": "f", "arguments": {"a": 1, "b": [True, None, "ü\n"]}}}]},
                 {"role": "tool", "content": [{"type": "text", "text": "42"}]},
                 {"role": "user", "content": "<think>no</think> ok"}],
    "tools": [{"type": "function", "function": {"name": "f", "description": "Does \"f\".", "parameters": {
        "type": "object", "properties": {"a": {"type": "integer", "default": 1.0}, "b": {"enum": ["x", "y"]}},
        "required": ["a"]}}}],
    "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": True,
}

EXPRESSIONS = """
s|upper; s|lower; u|upper; u|lower; u|title; u|capitalize; s.swapcase(); u.casefold(); t|trim; t|trim('\\n '); s|trim('Hd')
t.strip(); t.lstrip(); t.rstrip(); s.strip('Hdl'); t.split(); s.split(', '); s.split('l', 1); s.rsplit('l', 1); s.rsplit('l')
t.rsplit(); '  a b  c '.split(None, 1); '  a b  c '.rsplit(None, 1); 'a,,b,'.split(','); lines.splitlines(); lines.splitlines(true)
s.partition(', '); s.rpartition('l'); s.partition('zz'); s.rpartition('zz'); s.find('o'); s.rfind('o'); s.find('zz'); u.find('語')
s.index('W'); s.index('zz'); s.count('l'); s.count('l', 4); s.count(''); s.startswith('He'); s.startswith(('x', 'He')); s.endswith('ld')
s.startswith('W', 7); s.endswith('o', 0, 5); s.removeprefix('Hello'); s.removesuffix('World'); s.removeprefix('x'); s.replace('l', 'L')
s.replace('l', 'L', 1); s.replace('', '-'); s|replace('l', 'L', 2); s|replace('o', n); s.center(20, '*'); s.ljust(15) ~ '|'; s.rjust(15)
s|center(21); '42'.zfill(5); '-42'.zfill(5); ','.join(names); ', '.join(['a', 'b']); s.join('ab'); ','.join(l); u.isalpha(); 'abc'.isalpha()
'12'.isdigit(); '²'.isdigit(); '²'.isdecimal(); '½'.isnumeric(); 'a1'.isalnum(); ' \\t'.isspace(); ''.isspace(); 'Ab'.istitle()
'abc'.islower(); 'ABC'.isupper(); 'a_1'.isidentifier(); '1a'.isidentifier(); 'é'.isascii(); 'a\\tb'.expandtabs(4); 'a\\x7f'.isprintable()
s[0]; s[-1]; s[1:4]; s[::-1]; s[::2]; s[-5:]; s[:-5]; u[6:13]; u[::-1]; s[100]; s[100:]; l[0]; l[-1]; l[5]; l[1:]; l[::-1]; l[:-1]
l[0:0]; nested[1][1][0]; d.b; d['b']; d.items; d['items']; d.missing; d.missing.more; deep.x.y[0].z; deep['x']['y'][0]['z']; nil.x; n.x
d.get('b'); d.get('zz'); d.get('zz', 5); d.keys()|list; d.values()|list; d.items()|list; d.items(); d.keys(); d.values(); d|items|list
d|length; s|length; u|length; l|length; nothing|length; nil|length; n|length; l|count; missing|length; d.pop('b'); l.append(4); l.index(1)
l.count(3); l.copy(); d.copy(); d.update({'a': 1}); l.index(99); l.sort(); l.reverse(); d.clear(); s.__class__; ''.__class__.__mro__; d.__class__
s|first; s|last; l|first; l|last; nothing|first; nothing|last; d|first; d|last; l|min; l|max; names|min; names|max; nothing|max; l|sum
people|sum('age'); people|sum(attribute='age', start=100); nested|sum(start=[]); people|map(attribute='name')|list; people|map(attribute='zz')|list
people|map(attribute='zz', default='none')|list; people|map(attribute='tags.0')|list; names|map('upper')|list; names|map('replace', 'a', 'A')|join(',')
people|selectattr('age', 'equalto', 30)|map(attribute='name')|list; people|selectattr('tags')|list|length; people|rejectattr('tags')|list|length
people|selectattr('tags', 'defined')|list|length; people|rejectattr('city', 'eq', 'Rome')|list; l|select('odd')|list; l|reject('odd')|list
mixed|select|list; mixed|reject|list; mixed|select('string')|list; mixed|select('none')|list; l|select('>', 1)|list; l|select('in', [1, 2])|list
mixed|map('string')|list; l|map('nosuch')|list; l|select('nosuch')|list; people|map|list; people|groupby('city')|list; people|groupby('age')|map(attribute=0)|list
people|groupby('city')|map('first')|list; people|groupby('tags', default=[])|length; (people|groupby('city')|first).grouper; l|sort; l|sort(reverse=true)
names|sort; names|sort(case_sensitive=true); people|sort(attribute='age')|map(attribute='name')|list; people|sort(attribute='age,name')|map(attribute='name')|list
people|sort(reverse=true, attribute='age')|map(attribute='name')|list; mixed|sort; d|dictsort; d|dictsort(by='value'); {'b': 2, 'A': 1}|dictsort
{'b': 2, 'A': 1}|dictsort(true); {'b': 1, 'a': 2}|dictsort(false, 'value'); {'b': 1, 'a': 2}|dictsort(reverse=true); names|unique|list
names|unique(true)|list; people|unique(attribute='age')|map(attribute='name')|list; l|reverse|list; s|reverse; nothing|reverse|list; l|batch(2)|list
l|batch(2, 0)|list; l|slice(2)|list; l|slice(2, 'x')|list; names|join; names|join(', '); l|join('-'); mixed|join(' '); people|join(', ', attribute='name')
nil|join(','); missing|join(','); s|join('.'); s|list; d|list; l|list; nil|list; n|list; missing|list; s|default('x'); missing|default('x'); missing|d
nil|default('x'); nil|default('x', true); empty|default('x', true); empty|default('x'); nil|d('y', boolean=true); missing|default(nil); z|default(1, true)
n|string; f|string; nil|string; l|string; d|string; n|int; f|int; '42'|int; '4x'|int; '4x'|int(5); ' 7 '|int; '0x1f'|int(base=16); 'ff'|int(0, 16)
'1_000'|int; '3.9'|int; nil|int; yes|int; missing|int; l|int; n|float; '2.5'|float; 'x'|float; 'x'|float(1.5); 'inf'|float; '1e3'|float; nil|float
f|round; 2.675|round(2); 3.5|round; 2.5|round; -2.5|round; n|round; 1234|round(-2); 2.1|round(method='ceil'); 2.9|round(method='floor'); 2.15|round(1, 'ceil')
42.55|round(1)|string; neg|abs; -2.5|abs; s|abs; f|round('x'); n|round(method='up'); s|wordcount; u|wordcount; s|truncate(8); s|truncate(5, true)
s|truncate(9, false, '…', 0); ('word ' * 60)|truncate; s|truncate(11); s|indent; lines|indent; lines|indent(2, true); lines|indent(2, blank=true)
lines|indent('> '); lines|indent(width=1, first=true, blank=true); n|indent; s|wordwrap(5); ('a long line of words to wrap ' * 3)|wordwrap(20)
'supercalifragilistic word'|wordwrap(8); 'supercalifragilistic word'|wordwrap(8, false); lines|wordwrap(3); s|title; "it's a 'quoted' word-pair"|title
quote|e; tags|e; tags|escape; tags|e|e; tags|forceescape; tags|safe; tags|safe ~ '<'; tags|safe + '<'; '<' + tags|safe; (tags|safe)|upper; tags|e|length
tags|striptags; s|urlencode; 'a b/c?ü'|urlencode; d|urlencode; {'a': 1, 'b c': 'ü'}|urlencode; {'a': 1, 'b': none, 'c': '<'}|xmlattr; 1000|filesizeformat
1|filesizeformat; 123456789|filesizeformat; 123456789|filesizeformat(true); 999|filesizeformat; '%s-%d'|format(s, n); '%5.2f|%-5s|%05d'|format(f, 'a', 7)
'%(a)s'|format(a=1); '%s'|format; '%x %X %o %e %g %%' % (255, 255, 8, f, small); '%r' % quote; '%s' % l; '%s %s' % (1, 2); '%s' % (1, 2); '%d' % 'x'
'%c%c' % (65, 'b'); '%+d % d' % (5, 5); '%10s|%-10s|' % ('a', 'b'); '%.3s' % s; '%(b)s %(a)s' % d; '%s' % d; '{} {}'.format(1, 'a'); '{0}{1}{0}'.format('a', 'b')
'{x}'.format(x=5); '{:>5}|{:<5}|{:^5}'.format('a', 'b', 'c'); '{:05.1f}'.format(f); '{:,}'.format(1234567); '{:x}'.format(255); '{!r}'.format(s); '{0[1]}'.format(l)
'{a}'.format(a=d); '{:.2%}'.format(0.256); '{:+d}'.format(5); '{{}}'.format(); '{:*^9}'.format('x'); '{}'.format(); '{:d}'.format('x'); '{0.b}'.format(d); '{:{w}}|'.format('a', w=4)
'{:_}'.format(1234567); '{:#x}'.format(255); '{:e}'.format(f); '{:g}'.format(1e10); '{}'.format(nil); '{:5}|'.format(n); '{:5}|'.format(yes); '{}'.format(yes)
n + 1; n - 1; n * 2; n / 5; n // 5; n % 5; neg // 2; neg % 3; neg / 2; n ** 2; 2 ** -1; 2 ** 0.5; f + 1; f * 2; f // 1; -f // 1; f % 1; -f % 2; 7 // -2; 7 % -2; 7.5 // -2
1 / 0; 1 // 0; 1 % 0; 1.0 / 0; s + s; s + n; n + s; s * 2; 2 * s; s * -1; l + l; l * 2; l + s; nil + 1; yes + yes; (1, 2) + (3,); d + d; s - s; l - l; -s; -yes; +n; -neg; - f
1 + 2 * 3; (1 + 2) * 3; 2 ** 3 ** 2; -2 ** 2; 10 - 3 - 2; 100 / 10 / 5; 'a' ~ 1 ~ nil ~ yes ~ f; 'a' ~ missing ~ 'b'; 1 ~ 2; 'x' ~ l; 1 + 1 ~ 2; 'a' ~ 'b' | upper
1 == 1.0; 1 == yes; 'a' == 'b'; nil == missing; missing == other; l == [3, 1, 2]; d == {'b': 1}; (1, 2) == [1, 2]; 1 < 2; 2 <= 2 < 3; 1 < 3 > 2; 'a' < 'b'; l < [3, 2]; 1 < 'a'; nil < 1
1 != 2; 'a' != 1; 1 < 2 < 2; (1, 'a') < (1, 'b'); 1 in l; 'b' in d; 'ell' in s; 9 not in l; 1 in s; 1 in n; 'a' in nil; 'x' in missing; missing in l; l in nested; [1, 2] in nested; 3 in range(5)
not yes; not empty; yes and s; no and s; empty or 'x'; nil or z or 'last'; yes and no or 'x'; not yes and no; not (yes and no); not 1 in l; s and n; nil and 1 / 0; yes or 1 / 0
s if yes else n; s if no else n; s if no; 'a' if nil else 'b' if no else 'c'; (s if no) is defined; [1 if yes else 2, 3]; missing if yes else 1; 'x' if missing is defined and missing.y else 'z'
s is string; n is string; n is number; yes is number; yes is integer; f is integer; f is float; n is float; yes is boolean; n is boolean; nil is none; missing is none; l is sequence
s is sequence; d is sequence; d is mapping; l is mapping; n is sequence; missing is sequence; l is iterable; s is iterable; n is iterable; missing is iterable; missing is defined; nil is defined
d.b is defined; d.zz is defined; missing is undefined; s is lower; 'abc' is lower; 'ABC' is upper; n is odd; n is even; n is divisibleby 6; n is divisibleby(5); z is even; f is odd
n is eq 42; n is equalto(42); n is ne 42; n is gt 41; n is ge 42; n is lt 42; n is lessthan 43; n is le 42; n is greaterthan(1); n is in [42]; 'a' is in 'abc'; n is not in [1]; nil is sameas none
yes is sameas true; n is sameas 42; s is callable; range is callable; d.get is callable; missing is callable; yes is true; yes is false; 1 is true; no is false; tags|e is escaped; s is escaped
'upper' is filter; 'nosuch' is filter; 'odd' is test; 'nosuch' is test; n is not none; n is not string; s is not number and yes; l is not mapping; missing is not defined; not missing is defined
range(3)|list; range(1, 4)|list; range(5, 0, -2)|list; range(3); range(0, 3); range(0, 10, 3); range(3)[1]; range(5)[1:3]|list; range(3)|length; range(200000); range('a'); range(0); range(5)|last
range(3)|sum; range(10)|select('even')|join; range(3) == range(0, 3); dict(a=1, b=2); dict(d, a=5); dict([('x', 1)]); namespace(a=1).a; namespace(a=1).b; namespace({'q': 2}).q; namespace(a=1)
cycler('a', 'b').next(); cycler('a', 'b').current; joiner(',')() ~ 'x'; strftime_now('%Y-%m-%d'); strftime_now('%d %b %Y'); strftime_now('%A, %B %d, %Y %H:%M:%S %p %j'); strftime_now('%-d/%-m/%y %I')
strftime_now('%%|%f|%z|%Z|%e|%U|%w|%D|%T|%F|%c|%x|%X'); raise_exception('no ' ~ s); raise_exception(); raise_exception(n); s|nosuch; s is nosuch; nosuch(1); s(); s.nosuch(); d.nosuch(1); missing()
missing + 1; 1 + missing; missing - 1; missing.x; missing['x']; missing[0]; missing[1:]; missing ~ 'x'; -missing; missing < 1; missing|upper; missing|list; missing|tojson; missing * 2; 'a' + missing
s|tojson; u|tojson; u|tojson(ensure_ascii=true); quote|tojson; lines|tojson; 'a\\x00\\x1f\\x7f\\b\\f/'|tojson; n|tojson; f|tojson; big|tojson; small|tojson; whole|tojson; yes|tojson; nil|tojson; l|tojson
d|tojson; d|tojson(indent=2); d|tojson(sort_keys=true); nested|tojson(indent=4); nested|tojson(indent='\\t'); nothing|tojson(indent=2); blank|tojson; {1: 2, none: 3, true: 4, 1.5: 5}|tojson; (1, 2)|tojson
d|tojson(separators=(',', ':')); d|tojson(indent=1, separators=(', ', ' = ')); messages|tojson; tools|tojson(indent=2); range(3)|tojson; d.items()|tojson; {'a': missing}|tojson; l|tojson(true); deep|tojson(indent=0)
(1e16, 1e15, 123456789.123, 1e-4, 1e-5, 0.1 + 0.2, 1e100, -0.0, 100.0, 1.0e+2); [1.0, 1, '1', nil, yes, (1,), (), {}, {'a': [1]}]; quote; [quote, "it's", 'say "x"']; ['a\\nb\\t\\\\', 'é', '\\x00\\x7f\\u200b🎉', '\\xad']
{'a': 'b', 1: none}; [[], [[]], {}]; (1,); (); ((1, 2), [3]); nested; mixed; d; people[0]; 'multi' 'part' "string"; 'a\\'b'; "a\\"b"; 'tab\\there'; '\\u00e9\\x41\\101'; '\\q\\d'; 'new\\
line'; 1_000; 0x1F; 0o17; 0b101; 1e3; 1.5e-3; 1.0; 0; 007; true; True; none; None; false; False; n.real; [1, 2, 3][1]; {'a': 1}.a; {'a': 1}['a']; 'abc'[1]; (1, 2)[0]; [1, 2,]; {'a': 1,}; (1, 2,)
s.upper().lower().title(); s|upper|lower|title; (s|upper).lower(); s.upper()|lower; s . upper ( ); l[ 0 ]; messages[0]['role']; messages[-1].content.split('</think>')[-1].lstrip('\\n'); messages[0].content[:2]
messages|selectattr('role', 'equalto', 'user')|list|last; messages|map(attribute='role')|join(', '); messages[2].tool_calls[0].function.arguments|tojson; messages|length; (messages|last).role
messages[1:]|map(attribute='role')|list; messages[::-1]|map(attribute='role')|list; messages|reverse|map(attribute='role')|list|tojson; messages|rejectattr('content', 'none')|map(attribute='content')|list
tools|map(attribute='function')|list|tojson; tools[0].function.parameters.properties.items()|list; tools[0].function.parameters.properties.keys()|join(','); tools|first|tojson(indent=2); messages|groupby('role')|map('first')|list
l is sequence and l is not string; d is iterable and d is not mapping; 'x' is in d; s|length > 5; l|length == 3 and yes; not l|length; n is odd or n is even; (n is odd) == no; [n, f]|max; [n, 'a']|max; {}|max
s|attr('upper'); d|attr('b'); s|attr('nosuch'); l|pprint; 'x'|list|first; [3]|first|string|list; mixed|map('default', 'x')|list; l|map('string')|join('+'); l|map('tojson')|list; names|map('length')|sum; people|map('items')|map('list')|first
names|map('first')|join; names|select('lower')|list; names|select('upper')|list; l|select('divisibleby', 2)|list; l|sort|first; (l|sort)[1]; {'a': {'b': 1}}.a.b; [l, names]|map('length')|list; [[1, 2], [3]]|map('sum')|list
[1, [2, 3]]|string; '[' ~ l|join(',') ~ ']'; s ~ (n if yes else '') ~ '!'; (yes, no)|select|list; '%s' % none; '%s' % yes; '%d' % 3.99; '%s%%' % n; 'a' 'b' ~ 'c'; 3|string + '4'; -3|abs; 2 - -2; 2--2; not -1; - - 3
d.b + d['b']; d.a ~ d.b; d['zz'] ~ 'x'; d['zz'] is defined; d[1]; d[l]; d[nil]; l['a']; s['a']; l[1.0]; l[yes]; s[nil]; n[0]; nil[0]; nil['a']; nothing[0]; nothing[0].x; people[0]['tags'][0]; people[2].tags[0]; l.0; nested.1.0
""".strip()

STATEMENTS = [
    "{% for x in l %}{{ loop.index }}:{{ x }}{% if not loop.last %}, {% endif %}{% endfor %}",
    "{% for x in l %}{{ loop.index0 }} {{ loop.revindex }} {{ loop.revindex0 }} {{ loop.first }} {{ loop.length }} {{ loop.depth }} {{ loop.depth0 }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }} {{ loop.nextitem is defined }};{% endfor %}",
    "{% for x in l %}{{ loop.cycle('a', 'b') }}{% endfor %}", "{% for x in [1,1,2,2,1] %}{{ loop.changed(x) }} {% endfor %}",
    "{% for x in nothing %}{{ x }}{% else %}none{% endfor %}", "{% for x in l %}{% continue %}{% else %}else{% endfor %}",
    "{% for x in l %}{% break %}{% else %}else{% endfor %}", "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}|{{ x }}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }} {{ loop.last }} {{ x }};{% endfor %}",
    "{% for x in l if x > 9 %}{{ x }}{% else %}nothing{% endfor %}",
    "{% for x in [1, 2, 3] if x < 3 %}{{ x }}{{ ', ' if not loop.last }}{% endfor %}", "{% for k, v in d.items() if k != 'c' %}{{ k }}{{ loop.nextitem is defined }}{{ loop.length }}{% endfor %}",
    "{{ s + 'a' + '' + s }}{{ s + 'a' + n }}", "{{ tags|e + '<' + 'a' }}{{ 'a' + '<' + tags|safe + '<' }}", "{{ 1 + 2 + 3 }}{{ l + l + [1] }}{{ 'a' + 'b' + missing }}", "{{ 'a' + (s if no) }}", "{{ ('a' + 'b') + ('c' + n|string) }}{{ 'x' + (1 + 2)|string + 'y' if yes else s }}",
    "{{ " + " + ".join("'" + str(i) + "'" for i in range(40)) + " }}", "{{ s if no }}|{{ s ~ nil if yes else missing.x }}|{{ (s if no) ~ tags|e ~ '<' }}", "{% macro m(x) %}{{ x + '!' }}{% endmacro %}{{ 'a' + m(s) + m('b' + s) ~ m('c') }}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for k, v in d|items %}{{ loop.index }}{{ k }}{{ loop.last }}{% endfor %}",
    "{% for k, v in d|dictsort %}{{ k }}{{ v }}{% endfor %}", "{% for (a, b) in [(1, 2), (3, 4)] %}{{ a + b }} {% endfor %}",
    "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] if c == 3 %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for a, b in l %}{{ a }}{% endfor %}", "{% for a, b in ['ab', 'cd'] %}{{ b }}{{ a }}{% endfor %}", "{% for a, b in ['abc'] %}{{ b }}{% endfor %}",
    "{% for a in n %}{% endfor %}", "{% for a in nil %}{% endfor %}", "{% for a in missing %}{{ a }}{% else %}no{% endfor %}",
    "{% for x in l %}{% for y in l %}{{ loop.index }}{{ x * y }}{% endfor %}|{{ loop.index }}{% endfor %}",
    "{% for x in l %}{% set outer = loop %}{% for y in 'ab' %}{{ outer.index }}{{ y }}{% endfor %}{% endfor %}",
    "{% for x in nested recursive %}{{ x if x is number else '[' ~ loop(x) ~ ']' }}{% endfor %}",
    "{% for x in nested recursive %}{% if x is iterable %}({{ loop(x) }}){% else %}{{ loop.depth }}{{ loop.index }}{% endif %}{% endfor %}",
    "{% for x in l %}{{ loop(l) }}{% endfor %}", "{% for x in s[:3] %}{{ x }}-{% endfor %}", "{% for x in range(3) %}{{ x }}{% endfor %}",
    "{% for x in l|reverse %}{{ x }}{{ loop.last }}{% endfor %}", "{% for x in l|map('string') %}{{ x }}{{ loop.length }}{% endfor %}",
    "{% set x = 1 %}{% for y in l %}{% set x = y %}{{ x }}{% endfor %}{{ x }}", "{% set x = 1 %}{% for y in l %}{{ x }}{% set x = x + y %}{% endfor %}",
    "{% set ns = namespace(t=0) %}{% for y in l %}{% set ns.t = ns.t + y %}{% endfor %}{{ ns.t }}", "{% set d.b = 5 %}", "{% set ns.x = 1 %}", "{% set ns = namespace() %}{% set ns.a, ns.b = 1, 2 %}{{ ns.a }}{{ ns.b }}{{ ns }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a, b = l %}{{ a }}", "{% set a = 1, 2 %}{{ a }}", "{% set x %}block {{ n }}{% endset %}[{{ x }}]", "{% set x | upper %}block {{ s }}{% endset %}[{{ x }}]",
    "{% set x | replace('o', '0') | trim %}  block {{ s }} {% endset %}[{{ x }}]", "{% if yes %}{% set q = 1 %}{% endif %}{{ q }}", "{% if no %}{% set s = 1 %}{% endif %}{{ s }}", "{% if no %}{% set q = 1 %}{% else %}{% set q = 2 %}{% endif %}{{ q }}",
    "{{ q }}{% set q = 5 %}{{ q }}", "{% for x in l %}{% if x == 1 %}{% set f2 = x %}{% endif %}{{ f2 }}|{% endfor %}", "{% for x in l %}{% if x == 1 %}{% set s = x %}{% endif %}{{ s }}|{% endfor %}{{ s }}",
    "{% if nil %}a{% elif n %}b{% else %}c{% endif %}", "{% if missing %}a{% elif z %}b{% else %}c{% endif %}", "{% if missing.x %}a{% endif %}", "{% if n > 1 and s %}a{% endif %}", "{% if 'a' in d and d['a'] == 'x' %}yes{% endif %}",
    "{% macro m(a, b=2, c='x') %}{{ a }}{{ b }}{{ c }}{% endmacro %}{{ m(1) }}|{{ m(1, 3) }}|{{ m(1, c=5) }}|{{ m(a=0) }}|{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(b=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, x=4) }}", "{% macro m() %}{{ caller() }}{% endmacro %}{% call m() %}body {{ s }}{% endcall %}", "{% macro m() %}{{ caller(1, 2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}{{ b }}{% endcall %}",
    "{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}", "{% macro m() %}{{ caller }}{% endmacro %}{{ m() }}", "{% macro m(x) %}{% if x > 0 %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(4) }}", "{% macro m() %}{{ s }}{{ q }}{% endmacro %}{% set q = 5 %}{{ m() }}",
    "{% macro m() %}{% set s = 'in' %}{{ s }}{% endmacro %}{{ m() }}{{ s }}", "{% for x in l %}{% macro m() %}{{ x }}{% endmacro %}{{ m() }}{% endfor %}", "{% macro a() %}A{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "{% macro m(a, b=a) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}",
    "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}[{{ m(1) }}]", "{{ m(1) }}{% macro m(x) %}{{ x }}{% endmacro %}", "{% macro m(x) %}{{ x }}{% endmacro %}{{ m }}{{ m.name }}{{ m.arguments }}", "{% macro m(x) %}{{ x|upper }}{% endmacro %}{{ ['a', 'b']|map('upper')|join }}{{ m('q') ~ m('r') }}",
    "{% macro m(x) %}{{ x }}{% endmacro %}{% set r = m(5) %}{{ r|length }}{{ r is string }}", "{% filter upper %}abc {{ s }}{% endfilter %}", "{% filter replace('a', 'b')|upper %}aaa{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set s = 1 %}{{ s }}{% endwith %}{{ s }}",
    "{% with s = n, q = s %}{{ s }}{{ q }}{% endwith %}", "{% generation %}gen {{ s }}{% endgeneration %}", "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}", "{% for m in l %}{% generation %}{{ m }}{{ loop.index }}{% endgeneration %}{% endfor %}",
    "{% raw %}{{ x }}{% if %}{% endraw %}|{{ n }}", "{%- raw -%}  {{ x }}  {%- endraw -%}  |", "a {# comment #} b", "a {#- comment -#} b", "a\n  {# comment #}\nb", "a\n  {#+ comment #}\nb", "{# {{ x }} {% if %} #}x", "{% block b %}in {{ s }}{% endblock %}", "{% block b scoped %}x{% endblock b %}",
    "{% autoescape false %}{{ tags }}{% endautoescape %}", "{% print s, n %}", "{% include 'x' %}", "{% import 'x' as y %}", "{% extends 'x' %}", "{% if no %}{% include 'x' %}{% endif %}ok", "{% do l.append(1) %}", "{% nosuch %}", "{% if yes %}", "{% endif %}", "{{ s", "{% if yes %}x{% endfor %}", "{{ }}", "{{ s s }}", "{{ 1 + }}", "{% set %}", "{% for in l %}{% endfor %}",
    "{{ (1 }}", "{{ [1 }}", "{{ {'a' 1} }}", "{{ 'abc }}", "{{ s | }}", "{{ s is }}", "{{ s.1a }}", "{{ $ }}", "{% set 1 = 2 %}", "{% macro m(a=1, b) %}{% endmacro %}", "{{ s is string is number }}", "{# open", "{% raw %}x", "{{ f(a=1, 2) }}", "{{ f(*l, *l) }}",
    "{% if no %}{{ s|nosuch }}{% endif %}ok", "{% if yes %}{{ s|nosuch }}{% endif %}ok", "{{ s|nosuch if no else 'fine' }}", "{% if s is nosuch %}{% endif %}", "{{ dict(*[[('a', 1)]], **{'b': 2}) }}", "{{ range(*[1, 4])|list }}", "{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{'a': 3, 'b': 4}) }}{{ m(1, **{'a': 2}) }}",
    "a\n{% if yes %}\nb\n{% endif %}\nc\n", "a\n  {% if yes %}  \n  b\n  {% endif %}\nc", "a\n  {%- if yes -%}  \n  b\n  {%- endif -%}\nc", "a\n  {%+ if yes +%}\n  b\n  {%+ endif %}\nc", "  {{ n }}  \n  {{- n -}}  \n  x", "\n\n{% set x = 1 %}\n\n{{ x }}\n\n", "x {% if yes %} y {% endif %} z", "{% if yes %}\r\na\r\n{% endif %}\rb\r\n",
    "{{ '}}' }}{{ '{{' }}{{ \"%}\" }}", "{{ {'a': {'b': 1}} }}", "{{ {'a': {'b': 1}}.a.b}}", "{{- s -}}", " {{-s-}} ", "{{ -1 }}{{-1}}", "{%if yes%}a{%endif%}", "{%-if yes-%} a {%-endif-%}", "a{% if yes %}\n\nb{% endif %}", "{% for x in l %}\n{{ x }}\n{% endfor %}\n", "\t{% if yes %}\t\nx\t{% endif %}", "a \u00a0{%- if yes %}b{% endif %}", "{{ n }}\n", "\n", "",
    "{%- for m in messages %}\n    {%- if m.role == 'user' %}\n        {{- '[INST] ' + m.content + ' [/INST]' }}\n    {%- elif m.role == 'system' %}\n        {{- '<<SYS>>' ~ m['content'] ~ '<</SYS>>' }}\n    {%- endif %}\n{%- endfor %}",
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + (message['content'] or '') | string + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}", "{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for m in loop_messages %}{% if loop.index0 == 0 and system_message != false %}{{ system_message }}{% endif %}{{ m.role }}{% endfor %}",
    "{%- set ns = namespace(multi=true, last=messages|length - 1) %}{%- for message in messages[::-1] %}{%- set index = (messages|length - 1) - loop.index0 %}{%- if ns.multi and message.role == 'user' and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}{%- set ns.multi = false %}{%- set ns.last = index %}{%- endif %}{%- endfor %}{{ ns.last }}",
    "{%- for t in tools %}{{ t.function.name }}({% for k, v in t.function.parameters.properties.items() %}{{ k }}: {{ v.type or 'any' }}{{ ', ' if not loop.last }}{% endfor %}){% endfor %}", "{% for c in messages[3].content %}{% if c.type == 'text' %}{{ c['text'] }}{% endif %}{% endfor %}", "{{ messages[4].content.split('</think>')[0].split('<think>')[-1].rstrip('\\n') }}",
    "{% set content = messages[0].content %}{% if content is string %}{{ content }}{% elif content is iterable and content is not mapping %}list{% endif %}", "{{ tools | map(attribute='function') | map(attribute='name') | list | tojson }}", "{% set o = messages | selectattr('role', 'equalto', 'tool') | list %}{{ o|length }}{{ o[0].content[0].text }}",
    "{% set x = {'a': 1} %}{% set y = dict(x, **{'b': 2}) %}{{ y }}", "{% set items = [] %}{% for x in l %}{% set items = items + [x * 2] %}{% endfor %}{{ items }}", "{% set ns = namespace(items=[]) %}{% for x in l %}{% set ns.items = ns.items + [x * 2] %}{% endfor %}{{ ns.items }}{{ ns['items'] }}", "{% set j = joiner('; ') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}",
    "{% set c = cycler('odd', 'even') %}{% for x in l %}{{ c.next() }}{{ c.current }}{% endfor %}{{ c.reset() }}{{ c.next() }}", "{% set g = l|map('string') %}{{ g|list }}{{ g|list }}", "{% set g = l|select('odd') %}{{ g is sequence }}{{ g is iterable }}{{ g|first }}{{ g|length }}", "{{ l|map('string')|tojson }}", "{{ (l|map('string'))[0] }}", "{{ l|reverse|last }}",
    "{% if '<think>' in messages[4].content and '</think>' in messages[4].content %}{{ messages[4].content.split('</think>', 1)[1].strip() }}{% endif %}", "{{ '%s: %s' | format('a', messages[0].content) }}", "{% set s2 = s if s is defined else 'x' %}{{ s2 }}", "{{ messages[2].tool_calls[0].function.arguments.items() | list }}", "{% for k, v in messages[2].tool_calls[0].function.arguments.items() %}{{ k }}={{ v | tojson if v is not string else v }};{% endfor %}",
]


def render(env, source, context):
    try:
        return {"expected": env.from_string(source).render(**context)}
    except Refused as e:
        return {"error": "raise_exception", "message": str(e)}
    except Exception as e:  # noqa: BLE001
        return {"error": type(e).__name__}


class Generator:
    """Random expressions and statements over CONTEXT: deep rather than pretty."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.atoms = [e.strip() for e in EXPRESSIONS.replace("\n", ";").split(";") if e.strip()]
        self.names = list(CONTEXT) + ["missing", "other"]

    def expression(self, depth):
        r = self.r
        if depth <= 0 or r.random() < 0.15:
            return r.choice(self.names) if r.random() < 0.6 else r.choice(
                ["1", "0", "-3", "2.5", "'a'", "'x y'", "true", "none", "[1, 'b']", "{'k': 2}", "(1, 2)", "''"])
        e = self.expression
        kind = r.randrange(12)
        if kind == 0:
            return f"({e(depth - 1)} {r.choice(['+', '-', '*', '/', '//', '%', '~', 'and', 'or'])} {e(depth - 1)})"
        if kind == 1:
            return f"({e(depth - 1)} {r.choice(['==', '!=', '<', '>=', 'in', 'not in'])} {e(depth - 1)})"
        if kind == 2:
            return f"({e(depth - 1)} if {e(depth - 1)} else {e(depth - 1)})"
        if kind == 3:
            test = r.choice(["defined", "string", "number", "none", "mapping", "sequence", "iterable", "boolean", "not none",
                             "integer", "float", "eq(1)", "in([1, 'a'])", "true", "odd"])
            return f"({e(depth - 1)} is {test})"
        if kind == 4:
            if r.random() < 0.5:
                return f"({r.choice(self.names)})[{r.choice(['1:', ':2', '::-1', ':-1'])}]"
            return f"({e(depth - 1)})[{r.choice(['0', '-1', repr('a'), repr('role'), '1'])}]"
        if kind == 5:
            return f"({e(depth - 1)}).{r.choice(['a', 'b', 'role', 'content', 'name', 'items()', 'keys()', 'strip()', 'upper()', 'split()', 'x'])}"
        if kind == 6:
            return f"[{e(depth - 1)}, {e(depth - 1)}]"
        if kind == 7:
            return f"{{{r.choice(['1', repr('a'), 'n', 's'])}: {e(depth - 1)}}}"
        filters = ["upper", "lower", "trim", "length", "first", "last", "list", "join(',')", "string", "int", "float", "tojson",
                   "default('d')", "default('d', true)", "sort", "reverse|list", "unique|list", "title", "capitalize", "replace('a', 'b')",
                   "round", "abs", "sum", "min", "max", "select|list", "reject('none')|list", "map('string')|list",
                   "map(attribute='name')|list",
                   "indent(2)", "tojson(indent=2)", "items|list", "batch(2)|list", "dictsort", "wordcount", "e", "count", "safe", "truncate(5)"]
        if kind < 11:
            return f"({e(depth - 1)}|{r.choice(filters)})"
        return f"(not {e(depth - 1)})"

    def statement(self, depth):
        r, e = self.r, self.expression
        if depth <= 0:
            return r.choice(["text ", "\n  ", "{{ " + e(2) + " }}", "{{- " + e(1) + " -}}", "{# c #}\n"])
        inner = lambda: "".join(self.statement(depth - 1) for _ in range(r.randrange(1, 3)))  # noqa: E731
        dash = lambda: r.choice(["", "", "-", "+"])  # noqa: E731
        kind = r.randrange(7)
        if kind == 0:
            return f"{{%{dash()} if {e(2)} {dash()}%}}{inner()}{{%{dash()} else %}}{inner()}{{%- endif {dash()}%}}\n"
        if kind == 1:
            return f"{{%{dash()} for x in {e(1)} {dash()}%}}{inner()}{{{{ x }}}}{{{{ loop.index }}}}{{% endfor {dash()}%}}"
        if kind == 2:
            return f"{{%{dash()} set {r.choice(['x', 'y', 's'])} = {e(2)} {dash()}%}}\n{{{{ x }}}}{inner()}"
        if kind == 3:
            return f"{{% set y %}}{inner()}{{% endset %}}{{{{ y|length }}}}"
        if kind == 4:
            return f"{{% macro m(a, b={e(1)}) {dash()}%}}{inner()}{{{{ a }}}}{{{{ b }}}}{{% endmacro %}}{{{{ m({e(1)}) }}}}"
        if kind == 5:
            return f"{{% filter {r.choice(['upper', 'trim', 'length', 'replace(1, 2)'])} %}}{inner()}{{% endfilter %}}"
        return inner() + inner()


def unstable(result):
    """Python shows an address, or the text is long without reason."""
    text = result.get("expected", "").lower()
    return "object at 0" in text or "at 0x" in text or len(text) > 3000


def main():
    options = argparse.ArgumentParser()
    options.add_argument("--count", type=int, default=1500)
    options.add_argument("--seed", type=int, default=1)
    options = options.parse_args()
    # What constant folding changes (a slice of a constant that cannot be sliced) and what holds an address differs
    # between these two, and is left out.
    env, plain, generator = environment(True), environment(False), Generator(options.seed)
    sources = ["{{ " + e + " }}" for e in generator.atoms] + STATEMENTS
    for i in range(options.count):
        sources.append(generator.statement(generator.r.randrange(1, 4)) if i % 2 else "{{ " + generator.expression(4) + " }}")
    print(json.dumps({"context": CONTEXT, "now": NOW.isoformat()}))
    for source in sources:
        result = render(env, source, json.loads(json.dumps(CONTEXT)))
        keep = [object() for _ in range(97)]  # so that addresses differ
        if not unstable(result) and result == render(plain, source, json.loads(json.dumps(CONTEXT))):
            print(json.dumps({"template": source, **result}))
        del keep


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The dialects, seen by the clients that people use, unmodified: openai, anthropic, websockets, curl. The demo model knows
nothing of conversations, so calls and schemas are forced by constraints; what is looked at is shape and counting."""
import asyncio
import json
import re
import shutil
import subprocess
import unittest

import anthropic
import openai
import websockets
from harness import DEMO, Server
from pydantic import BaseModel, Field

HI = [{"role": "user", "content": "Tell me of the sea."}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}}, "required": ["city"],
           "additionalProperties": False}
TOOL = {"type": "function", "function": {"name": "weather", "description": "of a city", "parameters": WEATHER}}


class Choice(BaseModel):
    word: str = Field(max_length=12)  # the demo model does not come to an end by itself
    count: int = Field(ge=0, le=99)


@unittest.skipUnless(DEMO.exists(), "demo/model is not there")
class Clients(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server()
        cls.openai = openai.OpenAI(base_url=cls.server.url + "/v1", api_key="none", max_retries=0)
        cls.anthropic = anthropic.Anthropic(base_url=cls.server.url, api_key="none", max_retries=0)
        cls.model = cls.openai.models.list().data[0].id

    @classmethod
    def tearDownClass(cls):
        cls.server.stop()

    def chat(self, **options):
        return self.openai.chat.completions.create(model=self.model, **{"messages": HI, "max_tokens": 12, "seed": 1, **options})

    # ---- openai ----

    def test_chat(self):
        answer = self.chat(n=2)
        self.assertEqual([c.index for c in answer.choices], [0, 1])
        self.assertTrue(all(c.message.role == "assistant" and c.message.content for c in answer.choices))
        self.assertLessEqual(answer.usage.completion_tokens, 24)
        self.assertEqual(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens)
        self.assertEqual(self.openai.models.retrieve(self.model).id, self.model)

    def test_chat_stream_equals_whole(self):
        whole = self.chat(logprobs=True, top_logprobs=3).choices[0]
        chunks = list(self.chat(stream=True, logprobs=True, top_logprobs=3, stream_options={"include_usage": True}))
        parts = [c.choices[0] for c in chunks if c.choices]
        self.assertEqual("".join(p.delta.content or "" for p in parts), whole.message.content)
        self.assertEqual([p.finish_reason for p in parts if p.finish_reason], [whole.finish_reason])
        rows = [row for p in parts if p.logprobs for row in p.logprobs.content or []]
        self.assertEqual([r.logprob for r in rows], [r.logprob for r in whole.logprobs.content])
        self.assertEqual(len(rows), chunks[-1].usage.completion_tokens)
        for row in rows:
            self.assertEqual(len(row.top_logprobs), 3)
            self.assertEqual([t.logprob for t in row.top_logprobs], sorted((t.logprob for t in row.top_logprobs), reverse=True))

    def test_tools(self):
        with self.subTest("required"):
            answer = self.chat(tools=[TOOL], tool_choice="required", parallel_tool_calls=False, max_tokens=200).choices[0]
            self.assertEqual(answer.finish_reason, "tool_calls")
            call = answer.message.tool_calls[0]
            self.assertEqual(call.function.name, "weather")
            self.assertIn(json.loads(call.function.arguments)["city"], ("Rome", "Oslo"))
        with self.subTest("the result goes back"):
            messages = [*HI, {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
                        {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
            self.assertTrue(self.chat(messages=messages, tools=[TOOL]).choices[0].message)
        with self.subTest("streamed"):
            with self.openai.chat.completions.stream(model=self.model, messages=HI, tools=[TOOL], max_tokens=200, seed=1,
                                                     tool_choice={"type": "function", "function": {"name": "weather"}}) as stream:
                kinds = [event.type for event in stream]
                final = stream.get_final_completion().choices[0]
            self.assertIn("tool_calls.function.arguments.delta", kinds)
            self.assertIn(json.loads(final.message.tool_calls[0].function.arguments)["city"], ("Rome", "Oslo"))

    def test_parse_with_a_schema(self):
        answer = self.openai.chat.completions.parse(model=self.model, messages=HI, response_format=Choice, max_tokens=400, seed=3,
                                                    temperature=0.5)
        self.assertIsInstance(answer.choices[0].message.parsed, Choice)

    def test_constrained_fields(self):
        """Each field that constrains an answer, in each dialect that has it: the answer is of its language."""
        grammar = 'root ::= "sea" (" " word){2}\nword ::= "of" | "salt"'
        schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
        is_word, is_sea = re.compile("(red|blue)-[0-9]{3}"), re.compile("sea( (of|salt)){2}")
        judges = {"regex": is_word.fullmatch, "grammar": is_sea.fullmatch, "choice": ("a.b", "c|d").__contains__,
                  "json": lambda text: json.loads(text) in ({"n": 1}, {"n": 2}),
                  "json_object": lambda text: isinstance(json.loads(text), dict)}
        values = {"regex": is_word.pattern, "grammar": grammar, "choice": ["a.b", "c|d"], "json": schema}
        cases = [({name: values[name]}, name) for name in ("regex", "grammar")]
        cases += [({"guided_" + name: value}, name) for name, value in values.items()]
        cases += [({"guided_json": json.dumps(schema)}, "json")]
        cases += [({"structured_outputs": {name: value}}, name) for name, value in values.items()]
        cases += [({"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}}, "json")]
        for path, prompt, text_of in (("/v1/chat/completions", {"messages": HI}, lambda a: a["choices"][0]["message"]["content"]),
                                      ("/v1/completions", {"prompt": "In the"}, lambda a: a["choices"][0]["text"]),
                                      ("/api/v1/generate", {"prompt": "In the"}, lambda a: a["text"])):
            for fields, kind in cases:
                with self.subTest(path, **fields):
                    status, answer = self.server.post(path, {**prompt, **fields, "max_tokens": 80, "seed": 5, "temperature": 1})
                    self.assertEqual(status, 200, answer)
                    self.assertTrue(judges[kind](text_of(answer)), text_of(answer))
        many = self.server.post("/v1/completions", {"prompt": "x", "regex": is_word.pattern, "n": 4, "max_tokens": 40, "temperature": 2})[1]
        texts = [c["text"] for c in many["choices"]]
        self.assertTrue(all(map(is_word.fullmatch, texts)) and len(set(texts)) > 1, texts)

    def test_constraints_that_cannot_be_held_are_refused(self):
        for fields, says in (({"regex": "a("}, "regex"), ({"guided_regex": "(?=a)b"}, "guided_regex"), ({"grammar": "root ::= x"}, "grammar"),
                             ({"guided_grammar": ""}, "guided_grammar"), ({"guided_choice": [1]}, "guided_choice"),
                             ({"guided_json": {"not": {}}}, '"not"'), ({"guided_json": "{"}, "guided_json"),
                             ({"structured_outputs": {"regex": 1}}, "structured_outputs.regex"),
                             ({"regex": "a", "grammar": 'root ::= "a"'}, "exclude each other"),
                             ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"if": {}}}}}, '"if"'),
                             ({"response_format": {"type": "yaml"}}, "response_format.type")):
            with self.subTest(**fields):
                status, answer = self.server.post("/v1/chat/completions", {"messages": HI, "max_tokens": 4, **fields})
                self.assertEqual(status, 400, answer)
                self.assertIn(says, answer["error"]["message"])

    def test_reasoning(self):
        extra = {"regex": "because it is[.]\\n</think>\\n\\nYes[.]", "chat_template_kwargs": {"enable_thinking": True}}
        answer = self.chat(max_tokens=60, extra_body=extra)
        message = answer.choices[0].message
        self.assertEqual((message.reasoning_content, message.content), ("because it is.", "Yes."))
        self.assertGreater(answer.usage.completion_tokens_details.reasoning_tokens, 0)
        parts = [c.choices[0].delta for c in self.chat(max_tokens=60, stream=True, extra_body=extra) if c.choices]
        self.assertEqual("".join(getattr(d, "reasoning_content", None) or "" for d in parts), "because it is.")
        self.assertEqual("".join(d.content or "" for d in parts), "Yes.")

    def test_sampling_fields(self):
        vocabulary = self.server.get("/api/v1/model-info")[1]["vocab"]
        token = self.server.post("/tokenize", {"prompt": " the"})[1]["tokens"]
        self.assertEqual(len(token), 1)
        forced = self.chat(logit_bias={token[0]: 100}, max_tokens=4).choices[0].message.content
        self.assertEqual(forced.split(), ["the"] * 4)
        stopped = self.chat(logit_bias={token[0]: 100}, extra_body={"stop_token_ids": token}).choices[0]
        self.assertEqual((stopped.message.content, stopped.finish_reason), ("", "stop"))
        later = self.chat(logit_bias={token[0]: 100}, extra_body={"stop_token_ids": token, "min_tokens": 3})
        self.assertEqual(later.usage.completion_tokens, 3)
        with self.assertRaises(openai.BadRequestError):
            self.chat(logit_bias={vocabulary: 1})

    def test_routed_experts(self):
        info = self.server.get("/api/v1/model-info")[1]
        answer = self.chat(max_tokens=5, extra_body={"return_routed_experts": True, "ignore_eos": True})
        routes = answer.choices[0].routed_experts
        self.assertEqual(len(routes), answer.usage.prompt_tokens + 4)  # the last token is read by no pass
        self.assertTrue(all(len(layers) == info["layers"] and len(layers[0]) == 4 for layers in routes))
        self.assertTrue(all(0 <= e < info["experts"] for layers in routes for row in layers for e in row))

    def test_completions_echo_and_logprobs(self):
        answer = self.openai.completions.create(model=self.model, prompt="In the beginning", max_tokens=3, echo=True, logprobs=2)
        choice = answer.choices[0]
        self.assertTrue(choice.text.startswith("In the beginning"))
        self.assertEqual("".join(choice.logprobs.tokens), choice.text)
        self.assertEqual(len(choice.logprobs.tokens), answer.usage.total_tokens)
        self.assertIsNone(choice.logprobs.token_logprobs[0])
        self.assertTrue(all(value <= 0 for value in choice.logprobs.token_logprobs[1:]))
        with self.assertRaises(openai.BadRequestError):
            self.openai.completions.create(model=self.model, prompt="a", suffix="b")

    def test_responses(self):
        ask = {"model": self.model, "input": HI, "instructions": "Be short.", "max_output_tokens": 12}
        answer = self.openai.responses.create(**ask)
        self.assertIn(answer.status, ("completed", "incomplete"))
        self.assertEqual(answer.usage.total_tokens, answer.usage.input_tokens + answer.usage.output_tokens)
        events = list(self.openai.responses.create(**ask, stream=True))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        kinds = [e.type for e in events]
        self.assertEqual(kinds[:2], ["response.created", "response.in_progress"])
        self.assertIn(kinds[-1], ("response.completed", "response.incomplete"))
        text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
        self.assertEqual(text, events[-1].response.output_text)
        parsed = self.openai.responses.parse(model=self.model, input="Count.", text_format=Choice, max_output_tokens=400,
                                             extra_body={"seed": 3})
        self.assertIsInstance(parsed.output_parsed, Choice)

    def test_embeddings_are_refused(self):
        with self.assertRaises(openai.InternalServerError) as caught:
            self.openai.embeddings.create(model=self.model, input="a")
        self.assertEqual(caught.exception.status_code, 501)

    # ---- anthropic ----

    def test_messages(self):
        ask = {"model": self.model, "messages": HI, "system": [{"type": "text", "text": "Be short."}], "max_tokens": 12,
               "extra_body": {"temperature": 0}}
        whole = self.anthropic.messages.create(**ask)
        self.assertEqual((whole.type, whole.role), ("message", "assistant"))
        self.assertIn(whole.stop_reason, ("end_turn", "max_tokens"))
        with self.anthropic.messages.stream(**ask) as stream:
            text = "".join(stream.text_stream)
            final = stream.get_final_message()
        self.assertEqual(text, whole.content[0].text)
        self.assertEqual(final.usage.output_tokens, whole.usage.output_tokens)
        count = self.anthropic.messages.count_tokens(model=self.model, messages=HI, system=ask["system"])
        self.assertEqual(count.input_tokens, whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0))
        stop = text[2:4]
        stopped = self.anthropic.messages.create(**ask, stop_sequences=[stop])
        self.assertEqual((stopped.stop_reason, stopped.stop_sequence), ("stop_sequence", stop))

    def test_messages_with_tools(self):
        tools = [{"name": "weather", "description": "of a city", "input_schema": WEATHER}]
        with self.anthropic.messages.stream(model=self.model, messages=HI, tools=tools,
                                            tool_choice={"type": "any", "disable_parallel_tool_use": True},
                                            max_tokens=300) as stream:
            final = stream.get_final_message()
        use = final.content[0]
        self.assertEqual((final.stop_reason, use.type, use.name), ("tool_use", "tool_use", "weather"))
        self.assertIn(use.input["city"], ("Rome", "Oslo"))
        messages = [*HI, {"role": "assistant", "content": [use.model_dump()]},
                    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "rain"}]}]
        self.assertTrue(self.anthropic.messages.create(model=self.model, messages=messages, tools=tools, max_tokens=5))

    def test_anthropics_client_gets_its_exceptions(self):
        for expected, options in ((anthropic.BadRequestError, {"max_tokens": 0}), (anthropic.NotFoundError, {"model": "other"})):
            with self.assertRaises(expected):
                self.anthropic.messages.create(**{"model": self.model, "messages": HI, "max_tokens": 5, **options})

    # ---- websockets, curl, our own ----

    def test_websocket(self):
        async def talk():
            async with websockets.connect(self.server.url.replace("http", "ws") + "/api/v1/ws/generate") as ws:
                ask = {"prompt": "In the", "max_tokens": 6, "seed": 1, "temperature": 0.5}
                await ws.send([json.dumps(ask)[:9], json.dumps(ask)[9:]])  # in fragments
                lines = []
                while not lines or "done" not in lines[-1]:
                    lines.append(json.loads(await ws.recv()))
                await ws.send(json.dumps({**ask, "request_id": "long", "max_tokens": 3000}))
                while "token" not in (first := json.loads(await ws.recv())):
                    pass
                await (await ws.ping())
                await ws.send(json.dumps({"cancel": "long"}))
                while "token" in (last := json.loads(await ws.recv())):
                    pass
                await ws.send("{")
                return ask, lines, first, last, json.loads(await ws.recv())

        ask, lines, first, last, bad = asyncio.run(talk())
        self.assertEqual("".join(line.get("token", "") for line in lines), self.server.generate(**ask)["text"])
        self.assertEqual(lines[-1]["tokens_generated"], 6)
        self.assertEqual((first["request_id"], last), ("long", {"request_id": "long", "cancelled": True}))
        self.assertEqual(bad["error"]["code"], "invalid_json")

    @unittest.skipUnless(shutil.which("curl"), "curl is not there")
    def test_curl(self):
        body = json.dumps({"messages": HI, "max_tokens": 3, "stream": True})
        out = subprocess.run(["curl", "-sN", self.server.url + "/v1/chat/completions", "-d", body], capture_output=True, text=True,
                             timeout=60, check=True).stdout
        self.assertTrue(out.startswith("data: {") and out.endswith("data: [DONE]\n\n"), out)

    def test_conversations(self):
        path = "/api/v1/chat/completions"
        first = self.server.post(path, {"messages": HI, "max_tokens": 4})[1]
        second = self.server.post(path, {"messages": HI, "max_tokens": 4, "conversation_id": first["conversation_id"]})[1]
        self.assertGreater(second["usage"]["prompt_tokens"], first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"])

    def test_text_tools(self):
        text = "Grüße, <|im_end|> Welt"
        tokens = self.server.post("/tokenize", {"prompt": text, "return_token_strs": True})[1]
        self.assertEqual(tokens["count"], len(tokens["token_strs"]))
        self.assertEqual(self.server.post("/detokenize", {"tokens": tokens["tokens"]})[1]["prompt"], text)
        prompt = self.server.post("/apply-template", {"messages": [{"role": "user", "content": text}]})[1]["prompt"]
        self.assertIn(text, prompt)
        special = {self.server.post("/tokenize", {"prompt": "<|im_end|>"})[1]["tokens"][0]}
        template = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "x"}]})[1]["tokens"]
        users = self.server.post("/tokenize", {"messages": [{"role": "user", "content": "x<|im_end|>"}]})[1]["tokens"]
        count = lambda ids: sum(i in special for i in ids)  # noqa: E731
        self.assertEqual(count(users), count(template))  # a user's text is never a special token

    def test_state(self):
        memory, experts = self.server.get("/api/v1/memory")[1], self.server.get("/api/v1/expert-stats")[1]
        self.assertGreater(memory["weights_bytes"], 0)
        self.assertGreater(memory["kv_pages"]["total"], 0)
        self.assertEqual(experts["hits"] + experts["misses"] > 0, experts["hit_rate"] is not None)
        self.assertEqual(self.server.post("/api/v1/expert-optimization", {})[0], 409)

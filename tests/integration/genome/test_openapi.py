"""What GENOME says about itself is what it does: real answers against its own schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from jsonschema import Draft202012Validator

from mnemos.genome.server import GenomeServer
from mnemos.genome.settings import GenomeSettings

MakeBody = Callable[..., dict[str, Any]]
MODELS = "/api/v1/models"


async def test_answers_are_as_openapi_describes_them(tmp_path: Path, make_body: MakeBody) -> None:
    async with (
        GenomeServer(GenomeSettings(data_dir=tmp_path, http_port=0)) as server,
        httpx2.AsyncClient(base_url=server.url, trust_env=False) as http,
    ):
        told = (await http.get("/openapi.json")).json()
        parts = told["components"]
        named = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(told)))
        assert named <= set(parts["schemas"])

        def fits(value: Any, schema: dict[str, Any]) -> bool:
            whole = schema | {"components": parts}
            return not list(Draft202012Validator(whole).iter_errors(value))

        def described(path: str, method: str, status: int) -> dict[str, Any]:
            answer = told["paths"][path][method]["responses"][str(status)]
            schema: dict[str, Any] = answer["content"]["application/json"]["schema"]
            return schema

        body = make_body(tags=["a"], signature={"x": 1}, input_schema={"type": "object"})
        taken = told["paths"][MODELS]["post"]["requestBody"]["content"]["application/json"]
        assert fits(body, taken["schema"])
        for spoilt in (body | {"family": "../x"}, body | {"familly": "x"}, body | {"files": []}):
            assert not fits(spoilt, taken["schema"])
        tag = {"version": "1"}
        for method, path, template, sent, status in (
            ("post", MODELS, MODELS, body, 201),
            ("post", MODELS, MODELS, body, 200),
            ("post", MODELS, MODELS, body | {"name": "x"}, 409),
            ("put", f"{MODELS}/tiny/tags/prod", f"{MODELS}/{{family}}/tags/{{tag}}", tag, 201),
            ("put", f"{MODELS}/tiny/tags/prod", f"{MODELS}/{{family}}/tags/{{tag}}", tag, 200),
            ("get", f"{MODELS}/tiny/tags/prod", f"{MODELS}/{{family}}/tags/{{tag}}", None, 200),
            ("get", f"{MODELS}/tiny/tags", f"{MODELS}/{{family}}/tags", None, 200),
            ("get", f"{MODELS}/tiny/versions", f"{MODELS}/{{family}}/versions", None, 200),
            ("get", f"{MODELS}/tiny?version=prod", f"{MODELS}/{{family}}", None, 200),
            ("get", f"{MODELS}/big", f"{MODELS}/{{family}}", None, 404),
            ("get", f"{MODELS}?total=true", MODELS, None, 200),
            ("get", f"{MODELS}?limit=0", MODELS, None, 422),
            ("post", f"{MODELS}/validate", f"{MODELS}/validate", {}, 200),
        ):
            answer = await http.request(method, path, json=sent)
            assert answer.status_code == status, answer.text
            schema = described(template, method, status)
            assert fits(answer.json(), schema), (method, path, answer.text)
            assert not fits({}, schema), (method, path)

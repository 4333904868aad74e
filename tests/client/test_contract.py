"""The client asks for all that a request can say, and reads all that an answer does."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import httpx
import numpy as np
import pytest
from pydantic import BaseModel

from client import Buffer, BufferInfo, ExemplarDetail, MemoryClient, ProtocolError, ServiceInfo
from client._params import BufferSettings
from client._reading import read_value
from memory_format.api import answers, requests, updates


@pytest.mark.parametrize(
    ("method", "request_of", "apart"),
    [
        (MemoryClient.create_buffer, requests.BufferRequest, {"name"}),
        (BufferSettings, requests.BufferChange, set()),
        (Buffer.fork, requests.ForkRequest, set()),
        (Buffer.update_scores, updates.ExemplarUpdate, {"arrays", "if_revisions"}),
        (Buffer.replace, updates.ExemplarUpdate, {"scores", "ranks", "if_version", "array_dtypes"}),
        # What is sampled next is a request of its own.
        (Buffer.sample, requests.SampleBody, {"decode_threads", "pixels", "cache", "next_step", "want"}),
        # An address says its conditions on fields one by one, ``field=NAME:VALUE``.
        (Buffer.query, requests.ExemplarQuery, {"cursor", "field", "fields"}),
        (Buffer.records, requests.ExemplarQuery, {"cursor", "field", "fields"}),
        (Buffer.delete, requests.DeleteQuery, {"exemplar_ids", "exemplar_id", "field", "fields"}),
    ],
)
def test_a_method_takes_what_its_request_can_say(
    method: Callable[..., Any], request_of: type[BaseModel], apart: set[str]
) -> None:
    taken = set(method.__annotations__ if method is BufferSettings else inspect.signature(method).parameters) - {"self"}
    assert taken ^ set(request_of.model_fields) == apart


def answer(content: bytes) -> httpx.Response:
    return httpx.Response(200, content=content, request=httpx.Request("GET", "http://service.test/v1"))


SERVICE = b'{"service": "s", "version": "9", "wire_version": "2"%s}'


def test_an_older_service_leaves_members_out_and_a_newer_one_adds_some() -> None:
    assert read_value(ServiceInfo, answer(SERVICE % b"")) == ServiceInfo("s", "9", "2")
    newer = read_value(ServiceInfo, answer(SERVICE % b', "colour": {"is": ["new"]}, "codecs": ["em_of_tomorrow"]'))
    assert newer == ServiceInfo("s", "9", "2", codecs=("em_of_tomorrow",))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<html>", "did not answer with JSON"),
        (b"[]", "ServiceInfo cannot be"),
        (b"{}", r"no ServiceInfo\.service; is it of another version"),
        (SERVICE % b', "segment_format": 1.0', r"ServiceInfo\.segment_format cannot be 1\.0"),
        (SERVICE % b', "segment_format": true', r"ServiceInfo\.segment_format cannot be True"),
        (SERVICE % b', "codecs": ["em_webp", 7]', r"ServiceInfo\.codecs\.1 cannot be 7"),
    ],
)
def test_what_is_no_such_answer_is_named(content: bytes, said: str) -> None:
    with pytest.raises(ProtocolError, match=said):
        read_value(ServiceInfo, answer(content))


def test_words_of_a_newer_service_are_read() -> None:
    values: dict[str, Any] = {
        member.name: 1 if "int" in str(member.type) else 1.5 if "float" in str(member.type) else "least_recently_drawn"
        for member in fields(BufferInfo)
    }
    content = httpx.Response(200, json=values).content
    assert read_value(BufferInfo, answer(content)).eviction == "least_recently_drawn"


def test_arrays_come_as_arrays() -> None:
    lists: dict[str, Any] = {"keep_mask": [[1, 0]], "token_ids": [5], "token_positions": [2]}
    detail = answers.ExemplarDetail(
        1, 2, 0, "a", 0.5, 0, (1, 2), 8, "em_webp", "strip", False, 3, 1, 1, 0.5, 99, 7,
        **lists, user_json={"a": None},
    )  # fmt: skip
    content = httpx.Response(200, json=vars(detail)).content
    read = read_value(ExemplarDetail, answer(content))
    assert (read.grid, read.keep_mask.dtype, read.keep_mask.tolist()) == ((1, 2), np.dtype(bool), [[True, False]])
    assert (read.token_ids.tolist(), read.token_positions.dtype, read.user_json) == ([5], np.dtype(int), {"a": None})
    for damaged in (b'"token_ids":7.5', b'"token_ids":["a"]', b'"token_ids":{}'):
        with pytest.raises(ProtocolError):
            read_value(ExemplarDetail, answer(content.replace(b'"token_ids":[5]', damaged)))

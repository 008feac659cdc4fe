"""What the classifier of the service passes on to the queue."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from service.classification.served_classifier import ServedClassifier
from service.classification.upload_fields import InputFiles
from service.decoding.job import DecodeRequest, DecodeResult
from service.settings import Settings


class BusyDecoders:
    """A pool whose processes are busy for 0.2 s; a clip then takes 0.1 s."""

    async def decode(self, files: InputFiles, request: DecodeRequest) -> DecodeResult:
        await asyncio.sleep(0.3)
        return DecodeResult({}, {}, decode_s=0.06, preprocess_s=0.04)


def test_the_slot_has_the_time_that_a_clip_waited_for_a_decoding_process() -> None:
    classifier = ServedClassifier(SimpleNamespace(), BusyDecoders(), Settings())  # type: ignore[arg-type]
    slot = SimpleNamespace(decode_wait_s=0.0, run=None)
    backend = classifier._backend(SimpleNamespace(name="avdigits", card=None), slot)  # type: ignore[arg-type]
    request = DecodeRequest(name="avdigits", streams={}, missing_streams=True, steps=4)
    asyncio.run(backend.decode(InputFiles(clip=b""), request))
    assert slot.decode_wait_s > 0.19


def test_no_wait_is_negative() -> None:
    assert DecodeResult({}, {}, decode_s=0.06, preprocess_s=0.04).wait_in(0.09) == 0
    assert DecodeResult({}, {}, decode_s=0.06, preprocess_s=0.04).wait_in(0.3) == pytest.approx(0.2)

"""A served policy answers as it would here, and nothing that a client sends ends it."""

import asyncio
import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest

pytest.importorskip("msgpack", reason="the extra [serve] is not installed")
pytest.importorskip("websockets", reason="the extra [serve] is not installed")

import msgpack
import torch
from websockets.sync.client import connect

import envs
from policies.agent import Agent
from policies.baselines import RandomPolicy
from policies.evaluate import evaluate
from policies.serving.client import RemoteError, RemotePolicy
from policies.serving.protocol import ProtocolError, decode, encode
from policies.serving.server import Served, serve
from worldmodel.interface import Interface

BOTH = Interface(cameras={"image": (4, 4, 3)}, state_dim=2, action_dim=1)


class Counting:
    """The action is how often a row was asked since it was reset, in hundredths."""

    ended = 0  # how many of them were closed

    def close(self):
        Counting.ended += 1

    def reset(self, observation, mask=None):
        count = len(observation["image"])
        self.count = np.zeros(count) if mask is None else np.where(mask, 0, self.count)

    def act(self, observation):
        if observation["image"].max() == 255:
            raise RuntimeError("too bright")
        if observation["image"].max() == 254:
            return np.full((len(self.count), 1), np.nan)
        self.count = self.count + 1
        return (self.count[:, None] / 100).astype(np.float32)


@contextmanager
def serving(make_policy=Counting, interface=BOTH, **options):
    """A server in a thread; gives its address, and a function that ends it."""
    started, found = threading.Event(), {}

    async def run():
        found["loop"], found["stop"] = asyncio.get_running_loop(), asyncio.Event()

        def ready(address):
            found["url"] = address
            started.set()

        about = {"version": "0", "policy": "test", "checkpoint": None}
        await serve(Served(make_policy, interface, about), port=options.pop("port", 0), ready=ready,
                    stop=found["stop"], **options)  # fmt: skip

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    assert started.wait(20)

    def end():
        if thread.is_alive():
            found["loop"].call_soon_threadsafe(found["stop"].set)
            thread.join(20)
        assert not thread.is_alive()

    try:
        yield found["url"], end
    finally:
        end()


@pytest.fixture(scope="module")
def url():
    with serving(max_mb=0.02, max_clients=3) as (address, _):
        yield address


def seen(rows=1, **changed):
    given = {"image": np.zeros((rows, 4, 4, 3), np.uint8), "state": np.zeros((rows, 2), np.float32)}
    return {key: value for key, value in {**given, **changed}.items() if value is not None}


def asking(observation, type="act", **more):
    return encode({"type": type, "observation": observation, **more})


def array(dtype="uint8", shape=(1, 4, 4, 3), data=bytes(48), **more):
    return {"dtype": dtype, "shape": list(shape), "data": data, **more}


def raw(**changed):
    """A message as someone without our encoder may write it."""
    image = {"image": array(**changed), "state": array("float32", (1, 2), bytes(8))}
    return msgpack.packb({"type": "act", "observation": image})


GOOD = asking(seen())


# What is said


def test_arrays_and_texts_come_through_as_they_were():
    sent = {"type": "x", "a": np.arange(6, dtype=np.uint8).reshape(2, 3), "b": np.array([[-1.5]], np.float32),
            "c": np.array([True, False]), "t": np.array(["one", "two"], object), "n": None}  # fmt: skip
    got = decode(encode(sent))
    for key in "abc":
        assert got[key].dtype == sent[key].dtype
        np.testing.assert_array_equal(got[key], sent[key])
    assert got["t"] == ["one", "two"] and got["n"] is None
    turned = decode(encode({"type": "x", "a": np.arange(12, dtype=np.float32).reshape(3, 4).T}))["a"]
    np.testing.assert_array_equal(turned, np.arange(12).reshape(3, 4).T)


def test_what_has_no_place_in_a_message_is_not_sent():
    with pytest.raises(TypeError, match="complex128"):
        encode({"type": "x", "a": np.zeros(1, complex)})
    with pytest.raises(TypeError, match="set has no place"):
        encode({"type": "x", "a": {1}})


def test_hello_tells_the_interface_and_what_an_observation_holds(url):
    with RemotePolicy(url) as policy:
        assert policy.interface == BOTH and policy.hello["protocol"] == 1 and policy.hello["policy"] == "test"
        assert policy.hello["observation"]["image"] == {"dtype": "uint8", "shape": [4, 4, 3], "needed": True}
        assert [key for key, row in policy.hello["observation"].items() if row["needed"]] == ["image", "state"]


def test_every_row_and_every_client_has_a_past_of_its_own(url):
    with RemotePolicy(url, BOTH) as one, RemotePolicy(url, BOTH) as other:
        one.reset(seen(2))
        other.reset(seen(1))
        assert one.act(seen(2)).tolist() == [[pytest.approx(0.01)]] * 2
        assert other.act(seen(1)).tolist() == [[pytest.approx(0.01)]]
        assert one.act(seen(2))[0, 0] == pytest.approx(0.02)
        one.reset(seen(2), np.array([True, False]))
        assert one.act(seen(2)).ravel().tolist() == pytest.approx([0.01, 0.03])
        assert other.act(seen(1)).ravel().tolist() == pytest.approx([0.02])


def test_instructions_and_goals_come_along_and_what_else_an_env_shows_stays_here(url):
    with RemotePolicy(url) as policy:
        shown = seen(instruction=np.array(["reach"], object), goal=np.zeros((1, 4, 4, 3), np.uint8),
                     expert_action=np.zeros((1, 1)))  # fmt: skip
        policy.reset(shown)
        assert policy.act(shown).shape == (1, 1)


def test_actions_are_the_receivers_to_change(url):
    with RemotePolicy(url) as policy:
        policy.reset(seen())
        policy.act(seen())[:] = 0


# What is wrong


@pytest.mark.parametrize("message, said", [
    (b"", "not msgpack"),
    (b"\xc1\xff\x00garbage", "not msgpack"),
    (GOOD[:-1], "not msgpack"),
    (GOOD[: len(GOOD) // 2], "not msgpack"),
    (GOOD + b"\x01", "not msgpack"),
    (b"\x91" * 5000, "not msgpack"),
    (b"\xdd\xff\xff\xff\xff", "not msgpack"),
    ("{}", "a text message"),
    (msgpack.packb([1, 2]), "a dict with a text under 'type'"),
    (msgpack.packb({"type": 3}), "a dict with a text under 'type'"),
    (msgpack.packb({"type": "shutdown"}), "'shutdown', which is none of hello, reset, act"),
    (msgpack.packb({"type": "act"}), "'observation' must be a dict"),
    (asking(seen(state=None)), "has no state; it has image"),
    (asking(seen(privileged=np.zeros((1, 2), np.float32))), "privileged, which is none of"),
    (asking(seen(image=np.zeros((1, 4, 5, 3), np.uint8))), r"must be uint8 \[B, 4, 4, 3\].* is uint8 \[1, 4, 5, 3\]"),
    (asking(seen(image=np.zeros((4, 4, 3), np.uint8))), "'image' must be"),
    (asking(seen(image=np.zeros((1, 4, 4, 3), np.float32))), "is float32"),
    (asking(seen(state=np.zeros((2, 2), np.float32))), "'state' must be .* the same B"),
    (asking(seen(state="zero")), "is a str"),
    (asking(seen(0)), "B >= 1"),
    (asking(seen(state=np.array([[0, np.nan]], np.float32))), "'state' is not finite"),
    (asking(seen(state=np.array([[0, np.inf]], np.float32))), "'state' is not finite"),
    (asking(seen(instruction=["one", "two"])), "a list of 1 texts"),
    (asking(seen(instruction=["x" * 10_001 ])), "a list of 1 texts"),
    (asking(seen(instruction=[1])), "a list of 1 texts"),
    (raw(dtype="object", data=bytes(8 * 48)), "dtype 'object', which is none of"),
    (raw(dtype="O"), "dtype 'O'"),
    (raw(dtype=["uint8"]), "dtype"),
    (raw(data=bytes(47)), "takes 48 bytes, and there are 47"),
    (raw(shape=(2**62, 2**62)), "takes"),
    (raw(shape=(-1, 48)), "whole numbers"),
    (raw(shape=(0, 2**62, 2**62), data=b""), "."),
    (raw(data="text"), "'data' bytes"),
    (raw(dtype="bool", data=b"\x02" * 48), "bytes other than 0 and 1"),
    (asking(seen(2)), "2 rows, where 1 were started"),
    (asking(seen(2), "reset", mask=np.array([True, False])), "a reset of some of 2 rows, where 1"),
    (asking(seen(), "reset", mask=np.array([True, False])), r"'mask' must be bool \[1\]"),
    (asking(seen(), "reset", mask=np.array([1], np.uint8)), r"'mask' must be bool \[1\]"),
    (asking(seen(), "reset", mask=1), "'mask' must be"),
    (asking(seen(image=np.full((1, 4, 4, 3), 255, np.uint8))), "RuntimeError: too bright"),
    (asking(seen(image=np.full((1, 4, 4, 3), 254, np.uint8))), "not finite; its weights"),
    (bytes(20_001), "more than max_mb=0.02 million bytes"),
    ([bytes(4_000)] * 30, "more than max_mb=0.02 million bytes"),
])  # fmt: skip
def test_a_wrong_message_is_answered_and_the_next_good_one_works(url, message, said):
    with connect(url, compression=None, proxy=None) as connection:

        def ask(data):
            connection.send(data)
            return decode(connection.recv(timeout=20))

        assert ask(asking(seen(), "reset"))["type"] == "reset"
        assert ask(GOOD)["action"].item() == pytest.approx(0.01)
        answer = ask(message)
        assert answer["type"] == "error"
        with pytest.raises(ProtocolError, match=said):
            raise ProtocolError(answer["message"])
        assert ask(GOOD)["action"].item() == pytest.approx(0.02)


def test_to_act_before_a_reset_is_an_error(url):
    with RemotePolicy(url) as policy:
        with pytest.raises(RemoteError, match="says: 1 rows, where 0 were started: send a reset"):
            policy.act(seen())
        policy.reset(seen())
        assert policy.act(seen()).shape == (1, 1)


def test_a_frame_that_would_fill_the_memory_ends_that_connection_alone(url):
    with RemotePolicy(url) as other, connect(url, compression=None, proxy=None) as connection:
        other.reset(seen())
        connection.send(bytes(100_000))
        with pytest.raises(Exception, match="1009"):
            connection.recv(timeout=20)
        assert other.act(seen()).shape == (1, 1)


def test_a_page_in_a_browser_is_turned_away(url):
    with pytest.raises(Exception, match="403"), connect(url, origin="https://example.com", proxy=None):
        pass


def test_more_clients_than_there_is_place_for_are_told(url):
    with RemotePolicy(url), RemotePolicy(url), RemotePolicy(url) as last:
        with pytest.raises(RemoteError, match="3 clients are here already"):
            RemotePolicy(url)
        last.reset(seen())
    with RemotePolicy(url, connect_s=5):
        pass


# The other end


def test_another_env_is_told_what_differs(url):
    other = Interface(cameras={"image": (8, 8, 3)}, state_dim=2, action_dim=1)
    with pytest.raises(ValueError, match=r"cameras .*4, 4, 3.* not .*8, 8, 3.* as this env"):
        RemotePolicy(url, other)


@pytest.mark.parametrize("address", [None, "127.0.0.1:8765"])
def test_an_address_that_is_none_says_how_one_looks(address):
    with pytest.raises(ValueError, match="ws://127.0.0.1:8765"):
        RemotePolicy(address)


def test_no_server_says_how_to_start_one():
    with serving() as (address, end):
        end()
        with pytest.raises(RemoteError, match="start it with worldmodel serve"):
            RemotePolicy(address, connect_s=0)


def test_a_slow_answer_is_not_waited_for_for_ever():
    going = threading.Event()

    class Slow(Counting):
        def act(self, observation):
            going.wait(20)
            return super().act(observation)

    with serving(Slow) as (address, _):
        policy = RemotePolicy(address, timeout_s=0.3)
        policy.reset(seen())
        with pytest.raises(RemoteError, match=r"within 0.3 s.*policy.timeout_s"):
            policy.act(seen())
        going.set()
        with pytest.raises(RemoteError, match="reset all rows"):
            policy.act(seen())
        policy.timeout_s = 20
        policy.reset(seen())
        assert policy.act(seen()).item() == pytest.approx(0.01)
        policy.close()


def test_a_policy_is_closed_when_its_client_is_gone():
    with serving() as (address, end):
        before = Counting.ended
        with RemotePolicy(address) as one, RemotePolicy(address):
            one.reset(seen())  # the other one never needed a policy
        end()
        assert Counting.ended == before + 1


def test_a_lost_server_is_found_again_by_a_reset_of_all_rows():
    with serving() as (address, end):
        policy = RemotePolicy(address, connect_s=5)
        policy.reset(seen())
        end()
        with pytest.raises(RemoteError, match="was lost"):
            policy.act(seen())
        with pytest.raises(RemoteError, match="reset all rows"):
            policy.reset(seen(2), np.array([True, False]))
        with serving(port=int(address.rsplit(":", 1)[1])):
            policy.reset(seen())
            assert policy.act(seen()).item() == pytest.approx(0.01)
            policy.close()


def drawing(interface):
    return lambda: RandomPolicy(interface, seed=3, switch=0.5)


def acting(interface):
    torch.manual_seed(0)
    model = dict(latent_dim=8, width=32, layers=2, heads=2, kv_heads=1, window=4, ensemble=2, head_width=32,
                 channels=(8, 8, 8), feature_width=32)  # fmt: skip
    agent = Agent.new(interface, {"model": model, "behavior": {"width": 32}})
    return lambda: agent.policy("actor", seed=3, sample=True)


@pytest.mark.parametrize("kind", [drawing, acting])
def test_a_served_policy_has_the_returns_of_the_same_one_here(kind):
    options = {"id": "worldmodel/Reacher-v0", "image_size": 32}
    with envs.make_vector(1, **options) as vector:
        interface = Interface(**vector.interface)
    make = kind(interface)
    with serving(make, interface) as (address, _), RemotePolicy(address, interface) as remote:
        scores = evaluate({"here": make(), "there": remote}, lambda count: envs.make_vector(count, **options),
                          episodes=3, envs=2, max_steps=12)["policies"]  # fmt: skip
    assert scores["here"]["episodes"] == scores["there"]["episodes"]


def test_without_the_packages_the_error_names_the_extra(url, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "worldmodel\[serve\]"'):
        RemotePolicy(url)
    monkeypatch.setitem(sys.modules, "websockets.asyncio.server", None)
    with pytest.raises(ModuleNotFoundError, match=r'pip install "worldmodel\[serve\]"'):
        asyncio.run(serve(Served(Counting, BOTH, {})))

"""The fused decoder, its memories and its decode steps: the same as the plain ones.

Without a GPU the kernels run under Triton's interpreter and steps are launched one by one.
"""

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import load_tiny, random_ids, tiny_surroundings

from cca_kernels import gemv
from cca_models import decode_graph, fused_decoder, weights
from cca_models.checkpoints import resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.engine import LanguageModel, load_model
from cca_models.layer_memory import Sight
from cca_models.memory import Memory
from cca_models.static_memory import StaticLayerMemory
from cca_models.tokenizer import load_tokenizer
from cca_models.weights import choose_device

gpu = pytest.mark.gpu
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter takes a tenth of a second a step, so a window past a fork must come soon.
CCA = CCAConfig(group_size=4, window=8)
LENGTH = 61


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with tiny_surroundings(tmp_path_factory.mktemp("home")):
        yield


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", hidden=32)


def load_fused(path: Path, *, dtype: torch.dtype = torch.float32) -> LanguageModel:
    """Load a checkpoint into the fused decoder, on whatever device there is."""
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.weights import load_weights

    checkpoint = resolve_checkpoint(str(path))
    weights = load_weights(path, device=torch.device(DEVICE), dtype=dtype)
    decoder = FusedDecoder(checkpoint.config, weights)
    return LanguageModel(checkpoint, load_tokenizer(path), decoder, cca=CCA)


@pytest.fixture(scope="module")
def plain(path: Path) -> LanguageModel:
    return load_tiny(path, cca=CCA)


@pytest.fixture(scope="module")
def fused(path: Path) -> LanguageModel:
    return load_fused(path)


def read(model: LanguageModel, ids: list[int], *cuts: int, capacity: int = 300) -> Memory:
    """Read pieces that end at the cuts."""
    memory = model.new_memory(capacity)
    for start, end in pairwise([0, *cuts, len(ids)]):
        model.prefill(memory, ids[start:end])
    return memory


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a.cpu(), b.cpu(), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("kv_heads", "tied"), [(1, True), (4, False)])
def test_reading_equals_the_plain_decoder(tmp_path: Path, kv_heads: int, tied: bool) -> None:
    path = make_tiny_checkpoint(tmp_path / "m", kv_heads=kv_heads, tied=tied, hidden=32)
    models = load_tiny(path, cca=CCA), load_fused(path)
    for length in (1, 37, LENGTH):
        a, b = (m.prefill(m.new_memory(300), random_ids(length)) for m in models)
        assert b.dtype == torch.float32
        close(a, b)


@pytest.mark.parametrize(
    "cuts", [(50,), (3, 7, 8, 31, 33, 60), (1, 2, 60)], ids=["two", "uneven", "ends"]
)
def test_cut_up_it_reads_the_same(
    plain: LanguageModel, fused: LanguageModel, cuts: tuple[int, ...]
) -> None:
    ids, more = random_ids(LENGTH), random_ids(9, seed=1)
    exact = read(plain, ids, *cuts)
    memory = read(fused, ids, *cuts)
    assert memory.seen == LENGTH and memory.nbytes == exact.nbytes
    for ours, theirs in zip(memory.layers, exact.layers, strict=True):
        kept = theirs.tensors()
        assert {name: t.shape for name, t in ours.tensors().items()} == {
            name: t.shape for name, t in kept.items()
        }
        for name, tensor in ours.tensors().items():
            close(tensor, kept[name])
    close(plain.prefill(exact, more), fused.prefill(memory, more))


def test_every_state_and_probes_equal(plain: LanguageModel, fused: LanguageModel) -> None:
    ids = random_ids(LENGTH)
    found: list[dict[int, Sight]] = []
    states = []
    for model in (plain, fused):
        sights: dict[int, Sight] = {}
        memory = read(model, ids)
        fork = memory.fork()
        probes = {i: lambda sight, i=i, sights=sights: sights.update({i: sight}) for i in (0, 1)}
        model.probe(fork, random_ids(13, seed=2), probes)
        found.append(sights)
        with torch.inference_mode():
            part = torch.tensor([ids], device=model.device)
            memory = model.new_memory(300)
            states.append(model.decoder.forward(part, memory.layers, memory.rotary, every=True))
    close(*states)
    for i in (0, 1):
        a, b = found[0][i], found[1][i]
        assert a.position == b.position == LENGTH
        close(a.q, b.q)
        close(a.core_k, b.core_k)
        held = min(a.raw_k.shape[2], b.raw_k.shape[2])
        assert held >= CCA.window
        close(a.raw_k[:, :, -held:], b.raw_k[:, :, -held:])


def test_biases(tmp_path: Path, path: Path) -> None:
    from safetensors.torch import load_file, save_file

    biased = make_tiny_checkpoint(tmp_path / "m", hidden=32)
    weights = load_file(biased / "model.safetensors")
    for name in [n for n in weights if "_proj." in n]:
        rows = weights[name].shape[0]
        weights[name.replace("weight", "bias")] = torch.randn(rows) / 4
    save_file(weights, biased / "model.safetensors", metadata={"format": "pt"})
    models = load_tiny(biased, cca=CCA), load_fused(biased)
    ids = random_ids(50)
    memories = [read(m, ids) for m in models]
    close(*(m.prefill(memory, [5, 6, 7]) for m, memory in zip(models, memories, strict=True)))
    close(*(m.prefill(memory, [5]) for m, memory in zip(models, memories, strict=True)))


def test_merged_weights_lie_there_once(path: Path) -> None:
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.weights import load_weights

    checkpoint = resolve_checkpoint(str(path))
    weights = load_weights(path, device=torch.device("cpu"), dtype=torch.float32)
    before = {name: tensor.clone() for name, tensor in weights.items()}
    decoder = FusedDecoder(checkpoint.config, weights)
    assert weights.keys() == before.keys()
    assert all(torch.equal(weights[name], before[name]) for name in before)
    held = {t.untyped_storage().data_ptr() for t in weights.values()}
    own = {t.untyped_storage().data_ptr() for i in (0, 1) for t in decoder.layer(i).values()}
    assert own < held
    total = sum(t.numel() for name, t in before.items() if ".layers." in name)
    assert decoder.layer_parameters == total


def test_core_tokens_never_move_and_little_raw_room_stays(fused: LanguageModel) -> None:
    memory, ids = fused.new_memory(300), random_ids(165)
    fused.prefill(memory, ids[:160], chunk=145)
    layer = memory.layers[0]
    assert isinstance(layer, StaticLayerMemory)
    fused.prefill(memory, ids[160:])
    kept = layer.tensors()
    core, raw = kept["core_k"], kept["raw_k"]
    heads = core.shape[1] * core.shape[3] * 4
    assert core.untyped_storage().nbytes() == -(-300 // CCA.group_size) * heads
    assert raw.untyped_storage().nbytes() <= (CCA.window + CCA.group_size + 128) * heads
    longer = fused.new_memory(60)
    fused.prefill(longer, ids, chunk=150)
    close(longer.layers[0].tensors()["core_k"], memory.fork().layers[0].tensors()["core_k"])


def test_forks_share_until_they_are_a_window_away(fused: LanguageModel) -> None:
    memory = read(fused, random_ids(LENGTH))
    fork = memory.fork()
    base = memory.layers[0].addresses()
    fused.prefill(fork, random_ids(5, seed=1))
    assert fork.layers[0].addresses()[0][:2] == base[0][:2] != fork.layers[0].addresses()[1][:2]
    fused.prefill(fork, random_ids(7, seed=2))
    assert fork.layers[0].addresses()[0][:2] != base[0][:2]
    assert memory.layers[0].addresses()[0][:2] == base[0][:2]


def test_saved_it_goes_on(fused: LanguageModel, tmp_path: Path) -> None:
    memory = read(fused, random_ids(LENGTH))
    memory.save(tmp_path / "m.safetensors")
    loaded = Memory.load(tmp_path / "m.safetensors", fused)
    assert (loaded.seen, loaded.nbytes) == (memory.seen, memory.nbytes)
    more = random_ids(32, seed=1)
    for start, end in ((0, 5), (5, 6), (6, 32)):
        close(*(fused.prefill(m, more[start:end]) for m in (memory, loaded)))


def test_steps_and_chunks_in_turns(plain: LanguageModel, fused: LanguageModel) -> None:
    """A group that a step has pooled, token 31's, is seen by a later step, token 39's."""
    ids = random_ids(40)
    memories = read(plain, ids[:31]), read(fused, ids[:31])
    for start, end in pairwise((31, 32, 33, 38, 39, 40)):
        part = ids[start:end]
        close(*(m.prefill(mem, part) for m, mem in zip((plain, fused), memories, strict=True)))


def test_forks_go_their_own_ways(plain: LanguageModel, fused: LanguageModel) -> None:
    """In turns, past the window, so that one memory's writing would meet another's.

    A group that a step has pooled for each of them, token 35's, is seen by the last chunk.
    """
    ids = random_ids(30)
    ways = [random_ids(21, seed=seed) for seed in (1, 2, 3)]
    pieces = [(0, 5), (5, 6), (6, 20), (20, 21)]
    logits = []
    for model in (plain, fused):
        origin = read(model, ids, capacity=40)
        fork = origin.fork()
        memories = [origin, fork, fork.fork()]
        logits.append(
            [
                model.prefill(memory, tokens[start:end])
                for start, end in pieces
                for memory, tokens in zip(memories, ways, strict=True)
            ]
        )
    for a, b in zip(*logits, strict=True):
        close(a, b)


WRITTEN = [
    {},
    {"repetition_penalty": 1.3, "temperature": 0.8, "top_p": 0.9, "seed": 3},
    {"stop": ["e", "q", "s"]},
]


@pytest.mark.parametrize("options", WRITTEN, ids=["greedy", "sampled", "stop"])
def test_it_writes_the_same(
    plain: LanguageModel, fused: LanguageModel, options: dict[str, Any]
) -> None:
    ids, more = random_ids(40), random_ids(7, seed=4)
    written = []
    for model in (plain, fused):
        fork = read(model, ids).fork()
        generation = model.generate(fork, more, max_new_tokens=5, **options)
        pieces = list(generation)
        facts = (pieces, generation.tokens, generation.finish, fork.seen)
        after = model.prefill(fork, random_ids(20, seed=5))
        written.append((facts, torch.tensor(generation.logprobs), after))
    a, b = written
    assert a[0] == b[0]
    close(a[1], b[1])
    close(a[2], b[2])


def test_the_end_of_text_ends_it(plain: LanguageModel, fused: LanguageModel) -> None:
    """A step has been launched with the end of text by then: the memory must not know of it."""
    ids = random_ids(40)
    first = plain.generate(read(plain, ids), [5], max_new_tokens=12)
    first.text()
    at = next(i for i in range(2, 12) if first.tokens[i] not in first.tokens[:i])
    written = []
    for model in (plain, fused):
        eos, tokenizer = model.tokenizer.eos_ids, model.tokenizer
        tokenizer.eos_ids = (*eos, first.tokens[at])
        try:
            memory = read(model, ids)
            generation = model.generate(memory, [5], max_new_tokens=12)
            generation.text()
        finally:
            tokenizer.eos_ids = eos
        facts = (generation.tokens, generation.finish, memory.seen)
        assert len(generation.logprobs) == at + 1
        after = [model.prefill(memory, more) for more in ([7], random_ids(30))]
        written.append((facts, after))
    assert written[0][0] == written[1][0] == (first.tokens[:at], "eos", 41 + at)
    for a, b in zip(written[0][1], written[1][1], strict=True):
        close(a, b)


def test_two_texts_written_in_turns(plain: LanguageModel, fused: LanguageModel) -> None:
    ids = random_ids(40)
    both = []
    for model in (plain, fused):
        memory = read(model, ids)
        texts = [
            model.generate(memory.fork(), random_ids(5, seed=seed), max_new_tokens=9)
            for seed in (1, 2)
        ]
        walks = [iter(text._ids_written()) for text in texts]
        for turn in range(3):
            for walk in walks:
                next(walk)
            if turn == 1:
                model.prefill(memory.fork(), [8])
        both.append([text.tokens for text in texts])
    assert both[0] == both[1] and both[0][0] != both[0][1]


def test_a_fork_of_a_memory_that_is_being_written_to(fused: LanguageModel) -> None:
    ids = random_ids(40)
    memory = read(fused, ids)
    generation = fused.generate(memory, [5], max_new_tokens=6)
    walk = iter(generation._ids_written())
    for _ in range(3):
        next(walk)
    fork = memory.fork()
    assert fork.seen == 41 + 2
    for _ in walk:
        pass
    alone = read(fused, [*ids, 5, *generation.tokens[:2]])
    close(fused.prefill(fork, [11, 12]), fused.prefill(alone, [11, 12]))
    whole = read(fused, [*ids, 5, *generation.tokens[:5]])
    close(fused.prefill(memory, [11, 12]), fused.prefill(whole, [11, 12]))


def test_a_step_that_breaks_off_spoils_no_other_memory(
    plain: LanguageModel, fused: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device's cursor stands where it stood, whatever the broken step was to make of it."""
    broken, other = read(fused, random_ids(21)), read(fused, random_ids(22))
    fused.prefill(read(fused, random_ids(20)), [5])
    stepper = fused.decoder.stepper(CCA)
    assert stepper is not None

    def fail() -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(stepper.kernels, "run", fail)
        fused.prefill(broken, [5])
    assert broken.seen == 21
    close(fused.prefill(other, [9]), plain.prefill(read(plain, random_ids(22)), [9]))
    close(fused.prefill(broken, [9]), plain.prefill(read(plain, random_ids(21)), [9]))


def test_tables_that_were_not_set_are_set_by_the_next_step(
    plain: LanguageModel, fused: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = read(fused, random_ids(22))
    stepper = fused.decoder.stepper(CCA)
    assert stepper is not None
    with torch.inference_mode():
        stepper.kernels.frequencies.fill_(1)

    class Full:
        def copy_(self, *args: Any, **options: Any) -> None:
            raise torch.OutOfMemoryError

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(stepper.kernels, "frequencies", Full())
        stepper.launch(memory)
    close(fused.prefill(memory, [9]), plain.prefill(read(plain, random_ids(22)), [9]))


def test_a_fork_without_room_does_not_write_to_its_origin(
    fused: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = read(fused, random_ids(LENGTH))
    fork = memory.fork()
    ids = random_ids(12, seed=1)
    fused.prefill(fork, ids[:5])
    layer = fork.layers[0]
    assert isinstance(layer, StaticLayerMemory)
    before = layer.addresses()

    def fail(*sizes: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch, pytest.raises(torch.OutOfMemoryError):
        patch.setattr(layer, "_new_pair", fail)
        layer._own()
    assert layer.addresses() == before
    alone = read(fused, [*random_ids(LENGTH), *ids[:5]])
    close(fused.prefill(fork, ids[5:]), fused.prefill(alone, ids[5:]))


def test_saving_a_fork_leaves_it_a_fork(fused: LanguageModel, tmp_path: Path) -> None:
    """Room for the whole document, layer after layer, would be needed otherwise."""
    fork = read(fused, random_ids(LENGTH)).fork()
    fused.prefill(fork, random_ids(5, seed=1))
    before = [layer.addresses() for layer in fork.layers]
    fork.save(tmp_path / "m.safetensors")
    assert [layer.addresses() for layer in fork.layers] == before
    loaded = Memory.load(tmp_path / "m.safetensors", fused)
    more = random_ids(9, seed=2)
    close(*(fused.prefill(m, more) for m in (fork, loaded)))


def test_what_a_probe_keeps_of_the_queries_stays(fused: LanguageModel) -> None:
    kept: list[tuple[torch.Tensor, torch.Tensor]] = []
    memory = read(fused, random_ids(30))
    look = {0: lambda sight: kept.append((sight.q, sight.q.clone()))}
    fused.prefill(memory, random_ids(5, seed=3), probes=look)
    assert torch.equal(*kept[0])


@pytest.mark.parametrize("names", [("k", "v"), ("q", "v"), ("k",)], ids="".join)
def test_biases_of_some_projections(path: Path, names: tuple[str, ...]) -> None:
    from cca_models.decoder import Decoder
    from cca_models.fused_decoder import FusedDecoder
    from cca_models.weights import load_weights

    checkpoint = resolve_checkpoint(str(path))
    logits = []
    for kind in (Decoder, FusedDecoder):
        weights = load_weights(path, device=torch.device(DEVICE), dtype=torch.float32)
        for name in (f"model.layers.0.self_attn.{name}_proj" for name in names):
            weights[f"{name}.bias"] = torch.ones_like(weights[f"{name}.weight"][:, 0])
        before = set(weights)
        decoder = kind(checkpoint.config, weights)
        assert set(weights) == before
        model = LanguageModel(checkpoint, load_tokenizer(path), decoder, cca=CCA)
        logits.append(model.prefill(model.new_memory(100), random_ids(20)))
    close(*logits)


def test_heads_too_small_for_the_step_kernels(tmp_path: Path) -> None:
    """Rows of eight bytes: chunks of one token are read in the place of steps."""
    path = make_tiny_checkpoint(tmp_path / "m", layers=1, hidden=16, kv_heads=4)
    model = load_fused(path, dtype=torch.float16)
    assert model.decoder.head_dim == 4
    assert model.decoder.stepper(CCA) is None
    memory = read(model, random_ids(20))
    generation = model.generate(memory, [5, 6], max_new_tokens=3)
    generation.text()
    assert len(generation.tokens) == 3 and memory.seen == 24


def test_a_model_that_is_dropped_is_freed_at_once(path: Path) -> None:
    model = load_fused(path)
    model.prefill(read(model, random_ids(20)), [5])
    held = weakref.ref(model.decoder)
    layer = weakref.ref(next(iter(model.decoder._layers[0].values())))
    gc.disable()
    try:
        del model
        assert held() is None and layer() is None
    finally:
        gc.enable()


def test_a_named_card_is_current_only_while_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext(device))
    monkeypatch.setattr(torch, "empty", lambda *size, **options: None)
    card = choose_device("cuda:1")
    assert card == torch.device("cuda", 1) and not chosen
    with weights.on_device(card) as current:
        assert current == card
    with weights.on_device(torch.device("cpu")) as current:
        assert current is None


def test_all_kernels_run_with_their_device_as_the_current_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the caller, between two tokens, with his own."""
    inside: list[torch.device] = []
    seen: set[str] = set()

    @contextmanager
    def enter(device: torch.device) -> Iterator[None]:
        inside.append(device)
        yield
        inside.pop()

    def watch(place: Any, name: str) -> None:
        real = getattr(place, name)

        def call(*args: Any, **options: Any) -> Any:
            assert inside, name
            seen.add(name)
            return real(*args, **options)

        monkeypatch.setattr(place, name, call)

    monkeypatch.setattr(weights, "on_device", enter)
    watched = [
        (fused_decoder, "rms_norm_fwd"), (fused_decoder, "rotary_fwd"), (gemv, "gemv_fwd"),
        (decode_graph, "gemv_fwd"), (decode_graph, "choose_fwd"), (decode_graph, "_Result"),
    ]  # fmt: skip
    for place, name in watched:
        watch(place, name)
    model = load_fused(path)
    memory = read(model, random_ids(20))
    model.prefill(memory, [5])
    for _ in model.likeliest(memory, model.prefill(memory, [6]), 3):
        assert not inside
    assert not inside and seen == {name for _, name in watched}


@gpu
def test_cuda_takes_the_fused_decoder(path: Path) -> None:
    from cca_models.fused_decoder import FusedDecoder

    model = load_model(resolve_checkpoint(str(path)), cca=CCA, device="cuda", dtype="bf16")
    assert isinstance(model.decoder, FusedDecoder)
    assert isinstance(model.new_memory(100).layers[0], StaticLayerMemory)


@gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_stays_near_float32(path: Path, dtype: torch.dtype) -> None:
    """The fused path may round less than the plain one, never much more."""
    from cca_models.decoder import Decoder
    from cca_models.weights import load_weights

    ids, more = random_ids(300), random_ids(40, seed=1)
    exact = load_tiny(path, cca=CCA)
    half = load_fused(path, dtype=dtype)
    weights = load_weights(path, device=torch.device("cuda"), dtype=dtype)
    base = LanguageModel(
        half.checkpoint, half.tokenizer, Decoder(half.checkpoint.config, weights), cca=CCA
    )
    off: dict[str, list[float]] = {"fused": [], "plain": []}
    memories = {m: read(m, ids, capacity=400) for m in (exact, half, base)}
    for token in more:
        steps = {m: m.prefill(memories[m], [token]).cpu() for m in memories}
        off["fused"].append(float((steps[half] - steps[exact]).abs().max()))
        off["plain"].append(float((steps[base] - steps[exact]).abs().max()))
    assert max(off["fused"]) <= 2 * max(off["plain"])


@gpu
def test_chunks_do_not_matter(path: Path) -> None:
    model = load_fused(path, dtype=torch.bfloat16)
    ids = random_ids(450)
    logits = [
        model.prefill(model.new_memory(512), ids, chunk=chunk) for chunk in (450, 128, 64, 33)
    ]
    for other in logits[1:]:
        assert torch.corrcoef(torch.stack([logits[0], other]))[0, 1] > 0.999


@gpu
def test_steps_are_replayed_and_allocate_nothing(path: Path) -> None:
    model = load_fused(path, dtype=torch.bfloat16)
    memory = read(model, random_ids(100), capacity=512)
    stepper = model.decoder.stepper(CCA)
    assert stepper is not None
    model.prefill(memory, [5])
    assert stepper._graph is not None
    held = torch.cuda.memory_allocated()
    for _ in range(20):
        stepper.launch(memory)
        for layer in memory.layers:
            layer.seen += 1
    assert torch.cuda.memory_allocated() == held


@gpu
def test_saving_takes_no_room_on_the_device(path: Path, tmp_path: Path) -> None:
    model = load_fused(path, dtype=torch.bfloat16)
    memory = read(model, random_ids(200), capacity=512)
    held = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    memory.save(tmp_path / "m.safetensors")
    assert torch.cuda.max_memory_allocated() == held


@gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_models_on_two_cards(path: Path) -> None:
    checkpoint = resolve_checkpoint(str(path))
    models = [load_model(checkpoint, cca=CCA, device=f"cuda:{i}", dtype="fp32") for i in (1, 0)]
    assert torch.cuda.current_device() == 0
    told: list[int] = []
    written = []
    for model in models:
        memory = model.new_memory(300)
        model.prefill(memory, random_ids(LENGTH), on_chunk=lambda done, _: told.append(done))
        generation = model.generate(memory, [5], max_new_tokens=8)
        generation.text()
        written.append(generation.tokens)
    assert written[0] == written[1] and told == [LENGTH, LENGTH]
    assert torch.cuda.current_device() == 0

"""attend, decode and pool_groups against the float64 reference."""

import pytest
import torch
from kernel_cases import Case, assert_within_budget

import cca_kernels
from cca_kernels import reference

CASES = [
    Case(),
    Case(B=2, H=6, KV=2, L=63, D=48, G=13, W=37),
    Case(L=130, D=64, G=16, W=32, position=500),
    Case(H=9, KV=3, L=300, D=64, G=16, W=128, position=777),
    Case(L=9, G=16, W=32, position=3),
    Case(L=1, G=16, W=32, position=200, spare=3),
    Case(H=4, KV=4, L=130, D=80, G=13, W=13, position=60, spare=5),
    Case(L=200, D=32, G=1, W=1, position=40),
    Case(L=63, W=512, position=100),
    Case(L=130, D=64, position=500, dtype=torch.bfloat16),
    Case(L=130, D=64, position=500, dtype=torch.float16),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attend(case: Case) -> None:
    q, k, v, core_k, core_v = case.tensors()
    exact = reference.attend(
        *(t.double() for t in (q, k, v, core_k, core_v)), scale=case.D**-0.5, **case.options
    )
    low = reference.attend(q, k, v, core_k, core_v, scale=case.D**-0.5, **case.options)
    o, lse = cca_kernels.attend(q, k, v, core_k, core_v, **case.options)
    assert o.dtype == q.dtype
    assert_within_budget(o, low=low[0], exact=exact[0])
    assert_within_budget(lse, low=low[1], exact=exact[1])


def test_attend_in_float64_agrees_to_rounding() -> None:
    case = Case(L=300, H=6, KV=2, position=500, dtype=torch.float64)
    o, lse = cca_kernels.attend(*case.tensors(), **case.options)
    exact = reference.attend(*case.tensors(), scale=case.D**-0.5, **case.options)
    torch.testing.assert_close((o, lse), exact, rtol=0, atol=1e-13)


@pytest.mark.parametrize("L", [1, 2, 16])
@pytest.mark.parametrize("position", [5, 47, 48, 500])
def test_decode(L: int, position: int) -> None:
    case = Case(B=2, L=L, position=position, spare=2)
    tensors = case.tensors()
    exact = reference.attend(*(t.double() for t in tensors), scale=case.D**-0.5, **case.options)
    low = reference.attend(*tensors, scale=case.D**-0.5, **case.options)
    o, lse = cca_kernels.decode(*tensors, **case.options)
    assert_within_budget(o, low=low[0], exact=exact[0])
    assert_within_budget(lse, low=low[1], exact=exact[1])


def test_strided_input() -> None:
    case = Case(L=63, position=100)
    tensors = case.tensors()
    strided = tuple(t.transpose(1, 2).contiguous().transpose(1, 2) for t in tensors)
    torch.testing.assert_close(
        cca_kernels.attend(*strided, **case.options), cca_kernels.attend(*tensors, **case.options)
    )


@pytest.mark.parametrize("case", [Case(L=600, D=32, position=700), Case(L=63, G=13, W=37)], ids=str)
def test_gradients(case: Case) -> None:
    def gradients(run: object, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [t.requires_grad_() for t in case.tensors(dtype=dtype)]
        o = run(*leaves, **case.options)[0]  # type: ignore[operator]
        weight = torch.linspace(-1, 1, o.numel(), dtype=torch.float64).view_as(o).to(dtype)
        return list(torch.autograd.grad((o * weight).sum(), leaves))

    def spec(*tensors: torch.Tensor, **options: int) -> object:
        return reference.attend(*tensors, scale=case.D**-0.5, **options)

    exact = gradients(spec, torch.float64)
    low = gradients(spec, torch.float32)
    actual = gradients(cca_kernels.attend, torch.float32)
    for a, b, c in zip(actual, low, exact, strict=True):
        assert_within_budget(a, low=b, exact=c)


def test_reference_gradients_are_right() -> None:
    case = Case(L=6, D=3, G=2, W=3, H=2, KV=1, dtype=torch.float64)
    leaves = tuple(t.requires_grad_() for t in case.tensors())
    assert torch.autograd.gradcheck(
        lambda *t: reference.attend(*t, scale=0.5, **case.options), leaves
    )


def test_every_token_is_seen_exactly_once() -> None:
    """The partition: core tokens and raw tokens of a query cover its past without overlap."""
    for G, W in [(4, 8), (3, 7), (5, 5), (1, 1), (7, 16)]:
        L = 90
        seen = reference.visibility(
            position=0, L=L, S=L, M=L // G, group_size=G, window=W, device=torch.device("cpu")
        )
        core, raw = seen[:, : L // G], seen[:, L // G :]
        covered = torch.cat([core.repeat_interleave(G, 1), torch.zeros(L, L % G, dtype=bool)], 1)
        assert torch.equal(covered ^ raw, torch.ones(L, L).tril().bool())
        assert not (covered & raw).any()


def test_no_core_tokens_is_window_attention() -> None:
    case = Case(L=20, G=16, W=64)
    q, k, v, core_k, core_v = case.tensors(dtype=torch.float64)
    o, _ = cca_kernels.attend(q, k, v, core_k, core_v, **case.options)
    full = torch.nn.functional.scaled_dot_product_attention(
        q, k, v, is_causal=True, enable_gqa=True
    )
    torch.testing.assert_close(o, full)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("L", [16, 63, 130])
@pytest.mark.parametrize("G", [13, 16])
def test_pool_groups(L: int, G: int, dtype: torch.dtype) -> None:
    k, v, anchor = (torch.randn(2, 3, n, 48).to(dtype) for n in (L, L, L // G))
    exact = reference.pool_groups(
        k.double(), v.double(), anchor.double(), group_size=G, scale=48**-0.5
    )
    low = reference.pool_groups(k, v, anchor, group_size=G, scale=48**-0.5)
    actual = cca_kernels.pool_groups(k, v, anchor, group_size=G)
    for a, b, c in zip(actual, low, exact, strict=True):
        assert_within_budget(a, low=b, exact=c)


def test_a_core_token_of_equal_tokens_is_that_token() -> None:
    k = torch.randn(1, 1, 1, 8).expand(1, 1, 4, 8)
    core_k, core_v = cca_kernels.pool_groups(k, k, torch.randn(1, 1, 1, 8), group_size=4)
    torch.testing.assert_close(core_k, k[:, :, :1])
    torch.testing.assert_close(core_v, k[:, :, :1])


def test_anchor_is_the_mean_over_the_heads_of_a_kv_head() -> None:
    q = torch.randn(1, 6, 5, 8)
    anchor = cca_kernels.group_anchors(q, kv_heads=2)
    torch.testing.assert_close(anchor[:, 1], q[:, 3:].mean(1))


def test_bad_arguments_say_what_was_expected() -> None:
    q, k, v, core_k, core_v = Case(L=4, position=200).tensors()
    options = Case(position=200).options
    with pytest.raises(ValueError, match=r"expected raw keys from position \d+ or before"):
        cca_kernels.attend(q, k[:, :, 5:], v[:, :, 5:], core_k, core_v, **options)
    with pytest.raises(ValueError, match="expected at least 10 core tokens, got 9"):
        cca_kernels.attend(q, k, v, core_k[:, :, :9], core_v[:, :, :9], **options)
    with pytest.raises(ValueError, match="expected dtype"):
        cca_kernels.attend(q, k.double(), v, core_k, core_v, **options)
    with pytest.raises(ValueError, match="multiple of"):
        cca_kernels.attend(q[:, :3], k, v, core_k, core_v, **options)
    with pytest.raises(ValueError, match="at most 16 queries"):
        cca_kernels.decode(*Case(L=17, position=200).tensors(), **options)
    with pytest.raises(ValueError, match='expected impl "auto", "torch" or "triton"'):
        cca_kernels.attend(q, k, v, core_k, core_v, impl="cuda", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least one group"):
        cca_kernels.pool_groups(k[:, :, :3], v[:, :, :3], k[:, :, :0], group_size=4)


def test_triton_says_where_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(L=4, position=200)
    with pytest.raises(RuntimeError, match="float64 needs impl='torch'"):
        cca_kernels.attend(*case.tensors(dtype=torch.float64), impl="triton", **case.options)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(RuntimeError, match="needs a CUDA tensor or TRITON_INTERPRET=1, got cpu"):
        cca_kernels.attend(*case.tensors(), impl="triton", **case.options)


@pytest.mark.parametrize("impl", ["torch", "triton"])
def test_any_strides_will_do(impl: cca_kernels.Impl) -> None:
    """The last axis too, which every fast implementation wants contiguous."""
    case = Case(L=33, position=100)
    tensors = case.tensors()
    odd = [t.transpose(2, 3).contiguous().transpose(2, 3) for t in tensors]
    expected = cca_kernels.attend(*tensors, impl=impl, **case.options)
    for i in range(len(odd)):
        mixed = [*tensors[:i], odd[i], *tensors[i + 1 :]]
        torch.testing.assert_close(cca_kernels.attend(*mixed, impl=impl, **case.options), expected)
    one = [t[:, :, -1:] if i == 0 else t for i, t in enumerate(odd)]
    options = {**case.options, "position": case.position + case.L - 1}
    o, _ = cca_kernels.decode(*one, impl=impl, **options)
    torch.testing.assert_close(o, expected[0][:, :, -1:])
    k, v = tensors[1:3]
    anchor = torch.randn_like(k[:, :, : k.shape[2] // 16])
    plain = cca_kernels.pool_groups(k, v, anchor, group_size=16, impl=impl)
    turned = anchor.transpose(2, 3).contiguous().transpose(2, 3)
    torch.testing.assert_close(
        cca_kernels.pool_groups(*odd[1:3], turned, group_size=16, impl=impl), plain
    )


def test_scale_and_places_are_checked() -> None:
    case = Case(L=4, position=200)
    q, k, v, _, _ = case.tensors()
    with pytest.raises(ValueError, match="expected scale > 0, got 0"):
        cca_kernels.attend(*case.tensors(), scale=0.0, **case.options)
    with pytest.raises(ValueError, match="expected first >= 0, got -1"):
        cca_kernels.pool_queries(q, k, v, first=-1, group_size=2)
    with pytest.raises(ValueError, match="expected group_size >= 1, got 0"):
        cca_kernels.pool_queries(q, k, v, first=0, group_size=0)


def test_second_derivatives_are_refused() -> None:
    case = Case(L=9, D=16, H=2, KV=1, W=32)
    leaves = [t.requires_grad_() for t in case.tensors()]
    o, _ = cca_kernels.attend(*leaves, impl="triton", **case.options)
    with pytest.raises(RuntimeError, match="differentiable once"):
        torch.autograd.grad(o.sum(), leaves[:1], create_graph=True)


def test_cards_without_these_kernels_take_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    from cca_kernels import devices

    card = torch.device("cuda", 7)
    for capability, name, runs in [
        ((7, 5), "older", False), ((8, 0), "ampere", True), ((8, 9), "ada", True),
        ((9, 0), "hopper", True), ((10, 0), "blackwell", True), ((12, 0), "ada", True),
    ]:  # fmt: skip
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        devices.architecture.cache_clear()
        assert devices.architecture(card) == name
        assert devices.has_kernels(card) is runs
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert not devices.has_kernels(card)
    devices.architecture.cache_clear()

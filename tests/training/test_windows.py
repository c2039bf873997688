"""Windows cut out of one tensor: the same numbers as windows kept, in numpy and in torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.learner_factory import TINY, episodes_of, small_market, small_panel
from training.environment import FlatObservations, PortfolioVecEnv
from training.layers import WindowGroup, WindowTable
from training.normalizer import Float32Array
from training.shared_windows import SharedWindowsDiffer, share_windows
from training.windows import LARGEST_INDEX, MarketWindows, market_windows

ASSETS, BARS, CHANNELS, LOOKBACK = 3, 40, 4, 5


def channels() -> Float32Array:
    shape = (BARS, ASSETS, CHANNELS)
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def by_slices(values: Float32Array, bar: int) -> Float32Array:
    """(N, L·C) what each asset's last bars are, oldest first."""
    recent = values[bar - LOOKBACK + 1 : bar + 1]
    return np.stack([recent[:, asset].reshape(-1) for asset in range(ASSETS)])


def test_a_window_is_the_slice_that_ends_at_its_bar() -> None:
    """First, last and middle bars; one asset's window never takes a bar of another's."""
    values = channels()
    windows = market_windows(values, LOOKBACK)
    bars = np.array([LOOKBACK - 1, 17, BARS - 1])
    expected = np.stack([by_slices(values, int(bar)) for bar in bars])
    np.testing.assert_array_equal(windows.at(bars), expected)
    assert (windows.asset_count, windows.asset_width) == (ASSETS, LOOKBACK * CHANNELS)


@pytest.mark.parametrize("bar", [LOOKBACK - 2, BARS])
def test_a_window_outside_the_tensor_is_refused(bar: int) -> None:
    """Its memory would be another asset's."""
    with pytest.raises(IndexError, match="windows end at bars 4 to 39"):
        market_windows(channels(), LOOKBACK).at(np.array([bar]))


def test_a_bar_must_be_exact_in_float32() -> None:
    """Index observations carry the bar as a float; longer histories are refused."""
    endless = np.lib.stride_tricks.as_strided(
        np.zeros(1, np.float32), (2, LARGEST_INDEX, 0), (0, 0, 4)
    )
    with pytest.raises(ValueError, match=f"fewer than {LARGEST_INDEX}"):
        MarketWindows(channels=endless, lookback_bars=1)


@pytest.mark.parametrize("piece", [3, 7, 10_000])
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("lookback", [LOOKBACK, 1])
def test_the_gathering_layer_is_a_linear_layer(
    monkeypatch: pytest.MonkeyPatch, piece: int, together: bool, lookback: int
) -> None:
    """Values and gradients of two weights are those of the windows put together by hand."""
    monkeypatch.setattr("training.layers._PIECE_VALUES", 0)
    monkeypatch.setattr("training.layers._PIECE_ROWS", piece)
    windows = market_windows(channels(), lookback)
    bar = np.random.default_rng(1).integers(LOOKBACK - 1, BARS, 23)
    inputs = torch.from_numpy(windows.at(bar)).reshape(23 if together else 23 * ASSETS, -1)
    torch.manual_seed(0)
    weights = [torch.randn(size, inputs.shape[1], requires_grad=True) for size in (2, 6)]
    table = WindowTable(windows, torch.device("cpu"))
    got = table.assets.linear(torch.from_numpy(bar), *weights)
    expected = [inputs @ weight.T for weight in weights]
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other)
    loss, other_loss = (sum(y.square().sum() for y in many) for many in (got, expected))
    assert isinstance(loss, torch.Tensor)
    assert isinstance(other_loss, torch.Tensor)
    for one, other in zip(
        torch.autograd.grad(loss, weights), torch.autograd.grad(other_loss, weights), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_the_pooled_window_is_the_mean_of_the_windows() -> None:
    """What an equivariant layer shares between the assets."""
    windows = market_windows(channels(), LOOKBACK)
    table, bar = WindowTable(windows, torch.device("cpu")), np.array([4, 20, 39])
    eye = torch.eye(windows.asset_width)
    (mean,) = table.mean.linear(torch.from_numpy(bar), eye)
    np.testing.assert_allclose(mean.numpy(), windows.at(bar).mean(axis=1), atol=1e-6)


def test_a_gradient_that_lost_its_windows_is_refused() -> None:
    """Memory is used again: a gradient asked for too late must not be a wrong one."""
    table = WindowTable(market_windows(channels(), LOOKBACK), torch.device("cpu"))
    weight = torch.ones(1, LOOKBACK * CHANNELS, requires_grad=True)
    (early,) = table.assets.linear(torch.tensor([10]), weight)
    table.assets.linear(torch.tensor([20]), weight)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.backward(early.sum())


def test_windows_are_never_all_kept() -> None:
    """The tensor holds each bar once for every asset and once for their mean."""
    config = TINY.replace(lookback_bars=64)
    market = small_market(small_panel(), config)
    width = len(market.schema.features) + 1
    assert market.windows.channels.size == len(market.accounts) * (ASSETS + 1) * width
    assert isinstance(WindowTable(market.windows, torch.device("cpu")).assets, WindowGroup)


def test_trainings_on_one_window_map_one_file(tmp_path: Path) -> None:
    """The first writes it, the others map it; another market's file is refused."""
    windows, path = market_windows(channels(), LOOKBACK), tmp_path / "windows.npy"
    mapped = [share_windows(windows, path) for _ in range(2)]
    assert [entry.name for entry in tmp_path.iterdir()] == ["windows.npy"]
    for one in mapped:
        assert isinstance(one.channels, np.memmap)
        np.testing.assert_array_equal(one.channels, windows.channels)
    bar = np.array([10, 30])
    table = WindowTable(mapped[0], torch.device("cpu"))
    (got,) = table.assets.linear(torch.from_numpy(bar), torch.eye(windows.asset_width))
    np.testing.assert_array_equal(got.numpy(), windows.at(bar).reshape(6, -1))
    with pytest.raises(SharedWindowsDiffer, match="remove it"):
        share_windows(market_windows(channels() + 1, LOOKBACK), path)


def test_the_wrapper_gives_the_flat_observations() -> None:
    """Step for step what ``Episodes.observe`` writes, terminal observations included."""
    config = TINY.replace(lookback_bars=3, episode_bars=4)
    market = small_market(small_panel(), config)
    flat = FlatObservations(PortfolioVecEnv(episodes_of(market, 2, config=config)))
    twin = episodes_of(market, 2, config=config)
    width = market.schema.width
    twin.restart(np.arange(2))
    before = flat.reset()
    np.testing.assert_array_equal(before, twin.observe(np.empty((2, width), np.float32)))
    for step in range(6):
        kept = before.copy()
        obs, _, dones, infos = flat.step(np.zeros((2, ASSETS)))
        np.testing.assert_array_equal(before, kept)
        twin.advance(np.zeros((2, ASSETS)))
        expected = twin.observe(np.empty((2, width), np.float32))
        if step == 3:
            assert dones.tolist() == [True, True]
            np.testing.assert_array_equal(infos[1]["terminal_observation"], expected[1])
            twin.restart(np.arange(2))
            expected = twin.observe(np.empty((2, width), np.float32))
        np.testing.assert_array_equal(obs, expected)
        before = np.asarray(obs)

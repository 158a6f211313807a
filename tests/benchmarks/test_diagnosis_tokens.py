from pathlib import Path

import pytest
import torch

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tokens(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import diagnosis_tokens

    return diagnosis_tokens


def test_a_sequence_repeats_its_motif(tokens):
    drawn = tokens.sequences(200, seed=5)
    assert drawn.shape == (200, tokens.LENGTH)
    repeats = [(drawn[:, p:] == drawn[:, :-p]).all(1) for p in tokens.PERIODS]
    assert bool(torch.stack(repeats).any(0).all())
    assert not torch.equal(drawn, tokens.sequences(200, seed=6))


def test_a_motif_is_a_walk_on_one_chain(tokens):
    first = tokens.sequences(4000, seed=7)[:, : min(tokens.PERIODS)]
    pairs = torch.zeros(tokens.VOCABULARY, tokens.VOCABULARY)
    for before, after in zip(first[:, :-1].flatten(), first[:, 1:].flatten(), strict=True):
        pairs[before, after] += 1
    assert bool(((pairs > 0).sum(1) == 4).all())  # each symbol has four that may follow
    likeliest = (pairs.amax(1) / pairs.sum(1)).mean()
    assert abs(float(likeliest) - 0.5) < 0.02


def test_the_loss_of_knowing_nothing_is_the_logarithm_of_the_vocabulary(tokens):
    drawn = tokens.sequences(3, seed=1)
    flat = tokens.losses(torch.zeros(3, tokens.LENGTH, tokens.VOCABULARY), drawn)
    torch.testing.assert_close(flat, torch.full((3,), tokens.VOCABULARY).log())
    sure = torch.nn.functional.one_hot(drawn.roll(-1, 1), tokens.VOCABULARY) * 50.0
    assert float(tokens.losses(sure, drawn).max()) < 1e-6

"""Notes on an SAE: how it was understood, and how its codes and decoder fit the first rows."""

import numpy as np
import pytest
import torch
from sae_checks import LAYOUTS, D, matrices, rand, save

from streamumap import engine
from streamumap.events import Note
from streamumap.params import Params
from streamumap.request import Request
from streamumap.source import Reading, in_place, open_source

CONFIG = {"architecture": "standard", "apply_b_dec_to_input": True}


def both_signs(sign=1.0):
    """Latents for the positive and negative part of each feature: the decoder gives rows back as they are, times `sign`."""
    eye, zeros = torch.eye(D), torch.zeros
    encoder = torch.cat([eye, -eye], dim=1)
    return {"W_enc": encoder, "b_enc": zeros(2 * D), "W_dec": (sign * encoder.T).contiguous(), "b_dec": zeros(D)}


def told(x, path, of="rows"):
    """Returns the notes that the listener gets, and the rows."""
    source, notes = open_source(x, Reading(sae=path, of=of)), []
    source.listener = notes.append
    with in_place(source) as rows:
        found = rows.read(0, rows.n_rows)
    return notes, found


def test_a_good_decoder_gives_the_rows_back(tmp_path):
    path = save(tmp_path / "sae", both_signs(), CONFIG)
    notes, codes = told(rand(500, D).numpy(), path)
    said = (
        "12.0 latents are active on average in the first 256 rows, and its decoder gives back 100.0% of their variance"
    )
    text = f"{path}/sae.safetensors: {said}"
    assert notes == [Note("info", text)]
    with in_place(open_source(rand(500, D).numpy(), Reading(sae=path))) as unheard:
        np.testing.assert_array_equal(unheard.read(0, 500), codes)
    assert told(rand(500, D).numpy(), path, "features")[0] == notes


def test_a_decoder_worse_than_the_mean_is_a_warning(tmp_path):
    path = save(tmp_path / "sae", both_signs(-1), CONFIG)
    request = Request(
        rand(90, D).numpy(), Params(n_neighbors=5, n_epochs=2), budget="1GB", device="cpu", reading=Reading(sae=path)
    )
    warnings = engine.embed(request, tmp_path / "run")["warnings"]
    assert any(
        "its decoder gives back -3" in text and "less than their mean would; check that" in text for text in warnings
    )


def test_no_active_latent_is_a_warning(tmp_path):
    path = save(tmp_path / "sae", both_signs() | {"b_enc": torch.full((2 * D,), -99.0)}, CONFIG)
    (note,), _ = told(rand(90, D).numpy(), path)
    assert note.level == "warning" and "0.0 latents are active on average in the first 90 rows" in note.text


def test_rows_that_are_not_finite_are_left_out(tmp_path):
    x = rand(90, D).numpy()
    x[3, 4], x[5, 6] = np.nan, np.inf
    path = save(tmp_path / "sae", both_signs(), CONFIG)
    (note,), _ = told(x, path)
    assert note.level == "info" and "12.0 latents are active on average in the first 88 rows" in note.text
    (note,), _ = told(np.full_like(x, np.nan), path)
    assert note.level == "info" and "in no row: the first ones have NaN" in note.text


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_each_layout_says_how_it_was_understood(layout, tmp_path):
    x = rand(300, D, seed=5)
    path, expected = layout(tmp_path / "sae", x)
    source = open_source(x.numpy(), Reading(sae=path))
    (note,) = source.notes
    assert "12 -> 40 features" in note and ("ReLU" in note or "TopK, k 5" in note)
    (note,), _ = told(x.numpy(), path)
    active = np.count_nonzero(expected[:256]) / 256
    assert f": {active:,.1f} latents are active on average in the first 256 rows" in note.text
    has_decoder = layout.__name__ not in ("sparsify_transcoder", "with_mean_and_scale")
    assert ("of their variance" in note.text) == has_decoder


def test_the_line_names_thresholds_and_normalisation(tmp_path):
    t = matrices() | {"threshold": torch.linspace(0.5, 2, 40)}
    config = {"architecture": "jumprelu", "apply_b_dec_to_input": False, "normalize_activations": "layer_norm"}
    path = save(tmp_path / "sae", t, config)
    (note,) = open_source(rand(9, D).numpy(), Reading(sae=path)).notes
    expected = "SAELens jumprelu: JumpReLU, thresholds 0.5 to 2, 12 -> 40 features, rows normalised by layer_norm, no bias is subtracted first"
    assert note == f"{path}/sae.safetensors: {expected}"

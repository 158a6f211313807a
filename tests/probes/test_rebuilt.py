"""A model that is rebuilt while it is watched."""

import warnings

import pytest
import torch
from torch import nn

import qprobe


def layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4)), torch.randn(6, 8)


def look(session, model, x):
    session.observe_next()
    model(x).sum().backward()
    session.step()


def test_layers_that_go_and_come_are_said_once():
    model, x = layers()
    with qprobe.attach(model, probes=["moments"], every=1) as session:
        look(session, model, x)
        model[2] = nn.Linear(16, 4)
        with pytest.warns(UserWarning, match=r"since attach|come after") as said:
            look(session, model, x)
        sentences = [str(one.message) for one in said]
        assert "no part of the model any more since attach(): 2;" in sentences[0]
        assert sentences[1] == "come after attach() and not watched: 2; attach again."
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            look(session, model, x)


def test_what_has_no_site_may_come_and_go():
    model, x = layers()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with qprobe.attach(model, probes=["moments"], every=1) as session:
            look(session, model, x)
            model[1] = nn.GELU()
            look(session, model, x)

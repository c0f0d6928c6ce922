"""What a pair of answers costs: DPO (arXiv:2305.18290) and its kin, from the log-probabilities of whole answers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn import functional as F

from tunesmith.recipes.dpo.spec import DpoParams


class PairScores(NamedTuple):
    """Of each pair of a batch, (pairs,) each."""

    loss: torch.Tensor
    rewards_chosen: torch.Tensor
    """β times how much likelier the better answer is than under the reference, nats."""
    rewards_rejected: torch.Tensor

    @property
    def values(self) -> dict[str, torch.Tensor]:
        """What is measured besides the loss, summed over the pairs, by the names of `spec.METRICS`."""
        chosen, rejected = self.rewards_chosen.detach(), self.rewards_rejected.detach()
        return {
            "rewards_chosen": chosen.sum(),
            "rewards_rejected": rejected.sum(),
            "rewards_margin": (chosen - rejected).sum(),
            "rewards_accuracy": (chosen > rejected).sum().to(chosen.dtype),
        }


def pair_scores(
    params: DpoParams, log_probs: torch.Tensor, reference: torch.Tensor, answer_tokens: torch.Tensor
) -> PairScores:
    """`log_probs` and `reference` (pairs, 2): summed over the tokens of the better and of the worse answer, under the model and
    under the reference, nats; `answer_tokens` (pairs, 2): how many those are.

    Sums as they are, but for `ipo`, which its authors take per token; so does TRL.
    """
    ratios = log_probs - reference
    rewards = params.beta * ratios
    if params.loss == "ipo":
        means = ratios / answer_tokens
        loss = (means[:, 0] - means[:, 1] - 1 / (2 * params.beta)) ** 2
    else:
        loss = _of_margin(params, rewards[:, 0] - rewards[:, 1])
    if params.rpo_alpha:
        loss = loss - params.rpo_alpha * log_probs[:, 0] / answer_tokens[:, 0]
    return PairScores(loss, rewards[:, 0], rewards[:, 1])


def _of_margin(params: DpoParams, margin: torch.Tensor) -> torch.Tensor:
    """(pairs,), of how much larger the better answer's reward is."""
    if params.loss == "hinge":
        return torch.relu(1 - margin)
    flipped = params.label_smoothing
    right, wrong = -F.logsigmoid(margin), -F.logsigmoid(-margin)
    if params.loss == "robust":  # unbiased when that share of the labels is wrong (arXiv:2403.00409)
        return ((1 - flipped) * right - flipped * wrong) / (1 - 2 * flipped)
    return (1 - flipped) * right + flipped * wrong if flipped else right

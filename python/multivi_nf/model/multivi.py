"""MultiVI: one latent space for cells measured by RNA, accessibility and surface protein in any mix.

For a cell c with present modalities M(c) and batch s (Ashuach et al., Nat Methods 2023):

    q(z_m | x_m, s) = N(mu_m, v_m)                       one encoder per modality
    z = sum_m w_m z_m                                    joint: mean sum w mu, variance sum w^2 v
    rna      x_g ~ NB(l_c softmax(f(z, s))_g, theta_g)
    atac     x_j ~ Bernoulli(y_j(z, s) d_c r_j), or Poisson(l_c softmax(f(z, s))_j) of fragments
    protein  x_t ~ pi NB(beta_t) + (1 - pi) NB(alpha_t beta_t),  log beta_t ~ N(prior of batch)
    objective = -E_q(z)[log p(x | z, s)] + KL(q(z) || N(0, 1)) + alignment + adversary
"""

from __future__ import annotations

import torch

from multivi_nf.data.minibatch import Minibatch
from multivi_nf.model.encoding import Noise
from multivi_nf.model.local_mixing import LocalMixing
from multivi_nf.model.loss import LossTerms, Objective, Weights
from multivi_nf.model.network import Network


class MultiVI(Network):
    """The model. Pure torch: it knows minibatches, no files and no AnnData.

    Parameters
    ----------
    config
        Architecture.
    """

    def loss(
        self,
        minibatch: Minibatch,
        *,
        kl_weight: float = 1.0,
        generator: torch.Generator | None = None,
        alignment_weight: float | None = None,
        adversary_weight: float | None = None,
        denominator: float | None = None,
        mixing: LocalMixing | None = None,
        thinning: float = 0.0,
    ) -> LossTerms:
        """Objective of a minibatch, nats per cell (`multivi_nf.model.loss`).

        Parameters
        ----------
        minibatch
            Cells, each with at least one measured modality.
        kl_weight
            Weight of the KLs (warm-up).
        generator
            Source of all noise but dropout: samples of z, hidden batch codes, the view that is drawn.
        alignment_weight, adversary_weight
            In place of the configuration's, for a warm-up: at full weight from the first step the alignment is a trap,
            since posteriors that say nothing agree.
        denominator
            Divide by this many cells rather than by the minibatch's (gradient accumulation, several devices).
        mixing
            Running sums of the local mixing penalties; None leaves these out.
        thinning
            In training, hide this share of a cell's RNA and ATAC counts from its encoders and score these alone
            (`multivi_nf.model.thinning`); 0 is not at all.
        """
        config = self.config
        weights = Weights(
            kl_weight,
            config.alignment_weight if alignment_weight is None else alignment_weight,
            config.adversary_weight if adversary_weight is None else adversary_weight,
        )
        return Objective(self, minibatch, Noise(generator, thinning), denominator).terms(weights, mixing)

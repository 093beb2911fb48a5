"""CCD, confident consensus division (RDE; Qin et al., CVPR 2024, section 3.3): which training pairs to trust."""

import numpy as np
import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.runner import Runner

from cada_plugin.checkpoints.load import bare_model
from cada_plugin.errors import ConfigError, needs_extra
from cada_plugin.models import RDE
from cada_plugin.models.distributed import gather
from cada_plugin.progress import progress_bar
from cada_plugin.registry import HOOKS


def _mixture_model() -> type:
    with needs_extra("rde"):
        from sklearn.mixture import GaussianMixture
    return GaussianMixture


def plausible(losses: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """Which of N pairs are probably right, bool (N,). A mixture of two Gaussians is fitted to the losses, scaled to
    0..1; pairs of the component with the smaller mean count as right. If all losses are equal, all pairs do so."""
    spread = np.ptp(losses)
    if spread == 0:
        return np.ones(len(losses), bool)
    mixture_model = _mixture_model()
    scaled = ((losses - losses.min()) / spread)[:, None]
    mixture = mixture_model(2, max_iter=10, tol=1e-2, reg_covar=5e-4, random_state=0).fit(scaled)
    return mixture.predict_proba(scaled)[:, mixture.means_.argmin()] > threshold


def divide(by_global: np.ndarray, by_selection: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pairs to keep, bool (N,): all that are plausible by both embeddings, and a pair that is plausible by only one of
    them with probability one half."""
    first, second = plausible(by_global), plausible(by_selection)
    return np.where(first == second, first, rng.random(len(first)) < 0.5)


@HOOKS.register_module()
class ConsensusDivisionHook(Hook):
    """Before every epoch, computes the losses of all training pairs and tells the model which pairs to keep.

    Cost: one more forward pass over the training split, in batches of the training loader. Pairs that the loader leaves
    out are kept. The random choices depend on (seed, epoch) alone.
    """

    def before_train(self, runner: Runner) -> None:
        _mixture_model()  # so that a missing scikit-learn is reported before the first epoch

    def before_train_epoch(self, runner: Runner) -> None:
        model = bare_model(runner)
        if not isinstance(model, RDE):
            raise ConfigError(f"ConsensusDivisionHook divides pairs for RDE, not for {type(model).__name__}")
        if not model.division:
            raise ConfigError(
                "model.division=False trains on all pairs, which ConsensusDivisionHook contradicts: take the hook out "
                "of the config, or set model.division=True"
            )
        losses = self._losses(runner, model)
        seen = np.flatnonzero(~np.isnan(losses[0]))
        clean = torch.ones(losses.shape[1], dtype=torch.bool)
        rng = np.random.default_rng((runner.seed or 0, runner.epoch))
        clean[seen] = torch.from_numpy(divide(*losses[:, seen], rng))
        broadcast(clean)  # losses may differ in the last bit between processes
        model.clean = clean
        runner.logger.info(f"consensus division keeps {int(clean.sum()):,} of {len(clean):,} training pairs")

    @torch.no_grad()
    def _losses(self, runner: Runner, model: RDE) -> np.ndarray:
        """Losses (2, N) of the N pairs of the split by both embeddings, NaN where the loader left a pair out."""
        losses = np.full((2, len(runner.train_dataloader.dataset)), np.nan)
        model.eval()
        bar = progress_bar(
            runner.train_dataloader, desc="consensus division", delay=2, leave=False, disable=runner.rank != 0
        )
        for batch in bar:
            data = model.data_preprocessor(batch, False)
            samples = data["data_samples"]
            device = next(model.parameters()).device
            index = gather(torch.tensor([sample.sample_index for sample in samples], device=device)).cpu()
            losses[:, index] = torch.stack(model.pair_losses(data["inputs"], samples)).cpu().numpy()
        model.train()
        return losses

"""Which target decides now: the champion's policy, or the fallback and the reason for it.

The swap to another model happens between two decisions, never within one.
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.decision import Source, Target
from daemon.journal import Event, Journal
from daemon.settings import Settings
from daemon.targets import CashTarget, EqualWeightTarget, PolicyTarget
from market.bar import DAY_MS
from market.features import WARMUP_BARS
from training.artefact import ArtefactRejected
from training.inference import Policy, load_policy
from training.registry import Champion, PromotionRefused, Registry, UnknownModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployed:
    """A champion whose artefact passed its self-check."""

    champion: Champion
    policy: Policy
    trained_until: int


class Deployment:
    """Holds the deployed policy; loading and promoting block, so call them in a thread."""

    def __init__(self, *, settings: Settings, registry: Registry, journal: Journal) -> None:
        """Start with nothing deployed."""
        self._settings = settings
        self._registry = registry
        self._journal = journal
        self.deployed: Deployed | None = None
        self.problem: str | None = None
        self._pointer: tuple[str, int] | None = None

    @property
    def required_bars(self) -> int:
        """Bars of history that the present target needs."""
        return self.deployed.policy.required_bars if self.deployed else WARMUP_BARS

    def load_champion(self) -> None:
        """Deploy the registry's champion; one that fails its self-check is not deployed."""
        champion = self._registry.champion()
        if champion is None:
            self.deployed, self.problem = None, None
            return
        try:
            policy = load_policy(champion.artefact_path)
            check_fits(policy, self._settings)
        except (ArtefactRejected, ValueError) as error:
            self.deployed, self.problem = None, f"{champion.model_id} was not loaded: {error}"
            self._journal.write(Event.MODEL_UNUSABLE, model_id=champion.model_id, reason=str(error))
            return
        self.problem = None
        self.deployed = Deployed(
            champion=champion, policy=policy, trained_until=champion.created_at
        )
        self._journal.write(Event.MODEL_LOADED, model_id=champion.model_id)

    def promote(self, model_id: str, at: int) -> None:
        """Let a candidate that passed every hard gate lead, if it can be deployed at all."""
        try:
            policy = load_policy(self._registry.model(model_id).artefact_path)
            check_fits(policy, self._settings)
            self._registry.promote(model_id, reason="passed every hard gate", at=at)
        except (PromotionRefused, UnknownModel, ArtefactRejected, ValueError) as error:
            self._journal.write(Event.MODEL_UNUSABLE, model_id=model_id, reason=str(error))
            return
        self._journal.write(Event.MODEL_PROMOTED, model_id=model_id)
        self.refresh()

    def refresh(self) -> None:
        """Deploy the champion if the pointer has moved, by us or from the command line."""
        champion = self._registry.champion()
        pointer = None if champion is None else (champion.model_id, champion.promoted_at)
        if pointer != self._pointer:
            self._pointer = pointer
            self.load_champion()

    def target(self, now: int) -> tuple[Target, str]:
        """Return what names the weights at ``now``, and why."""
        if self.deployed is None:
            why = self.problem or "no model has been promoted"
            return self._fallback(), f"{why}: {self._fallback_words()}"
        limit_days = self._settings.protection.max_model_age_days
        age_days = (now - self.deployed.trained_until) / DAY_MS
        if limit_days and age_days > limit_days:
            return self._fallback(), (
                f"the champion is {age_days:.0f} days old, the limit is {limit_days:g}: "
                f"{self._fallback_words()}"
            )
        return PolicyTarget(policy=self.deployed.policy), "the champion's policy"

    def _fallback(self) -> Target:
        if self._settings.account.fallback == Source.EQUAL_WEIGHT.value:
            return EqualWeightTarget(gross=0.95 * self._settings.account.leverage_limit)
        return CashTarget()

    def _fallback_words(self) -> str:
        if self._settings.account.fallback == Source.EQUAL_WEIGHT.value:
            return "the fallback holds equal weights"
        return "the account holds cash"


def check_fits(policy: Policy, settings: Settings) -> None:
    """Refuse a policy that cannot decide for accounts of these settings.

    Raises:
        ValueError: it was trained on other symbols or bars, or for more credit.
    """
    exchange = settings.exchange
    if policy.symbols != exchange.symbols or policy.interval_ms != exchange.interval_ms:
        raise ValueError(
            f"it was trained on {', '.join(policy.symbols)} every {policy.interval_ms} ms, "
            "which is not what exchange.symbols and exchange.interval say now"
        )
    limit = settings.account.leverage_limit
    if policy.artefact.budget > limit:
        raise ValueError(
            f"it was trained for a leverage of {policy.artefact.budget:g}, "
            f"account.leverage_limit is {limit:g} now"
        )

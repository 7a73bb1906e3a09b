"""Guesses about households: what their purchases say of who lives there, and how sure that is.

Sizes: U users, I items, E the width of an encoder's vectors, N households, F columns that are read
of each, C classes. Chapter 11.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from ecomkd.data.baskets import Baskets
from ecomkd.people.cards import Statement
from ecomkd.people.habits import group_counts


def demographics(users: pd.DataFrame) -> pd.DataFrame:
    """A table of what is known of the households of The Complete Journey, in a few classes each.

    It has a row for each user who told, and the categorical columns `kids` (no, yes), `people`
    (1, 2, 3+), `age` (under 35, 35 to 54, 55+) and `income` (under 35K, 35K to 74K, 75K+), missing
    where a user did not tell.
    """
    users = users[users["age"].notna()]
    told = users["composition"].fillna("").str
    kids = told.endswith(" Kids") & ~told.contains("No")
    kids = kids.astype(int).where(users["composition"].notna())
    people = {"1": 0, "2": 1, "3": 2, "4": 2, "5+": 2}
    income = {"Under 15K": 0, "15-24K": 0, "25-34K": 0, "35-49K": 1, "50-74K": 1}
    high = ("75-99K", "100-124K", "125-149K", "150-174K", "175-199K", "200-249K", "250K+")
    income |= dict.fromkeys(high, 2)
    age = {"19-24": 0, "25-34": 0, "35-44": 1, "45-54": 1, "55-64": 2, "65+": 2}
    codes = {
        "kids": (kids, ("no", "yes")),
        "people": (users["people"].map(people), ("1", "2", "3+")),
        "age": (users["age"].map(age), ("under 35", "35 to 54", "55+")),
        "income": (users["income"].map(income), ("under 35K", "35K to 74K", "75K+")),
    }
    return pd.DataFrame(
        {
            name: pd.Categorical.from_codes(code.fillna(-1).astype(int), labels)
            for name, (code, labels) in codes.items()
        },
        users.index,
    )


def purchase_weights(baskets: Baskets, day: int) -> sp.csr_matrix:
    """The weight of each item for each user, (U, I), where the weights of a user sum to 1.

    Before they are divided by their sum, weights are log(1 + times bought) · log(U / (1 + buyers)),
    so that an item that everybody buys says little.
    """
    counts = group_counts(baskets, day, np.arange(len(baskets.items)))
    buyers = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.maximum(np.log(counts.shape[0] / (1 + buyers)), 0)
    return normalize(counts.log1p() @ sp.diags(rarity), norm="l1")


def user_vectors(weights: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """The weighted mean (U, E) of the items' `vectors` (I, E), for the `weights` of each user."""
    return weights @ vectors


def classifier(seed: int) -> GridSearchCV:
    """A logistic regression on standardised columns whose penalty is chosen by log loss.

    The search stands around the whole pipeline, not inside it (as `LogisticRegressionCV` would), so
    that the columns are standardised without the households that a penalty is judged on.
    """
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    grid = {"logisticregression__C": np.logspace(-4, -1, 7)}
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    return GridSearchCV(line, grid, scoring="neg_log_loss", cv=inner)


def held_out(X: np.ndarray, y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The probabilities (N, C) of each class, by a model that has not seen the household.

    Args:
        X: (N, F), one row for each household, so that no household is in two folds.
        y: (N,) classes 0..C-1.
        folds: how many folds there are, each of which is left out once.
        seed: draws the folds.

    Raises ValueError when a class is too small to be in every fold, inner ones too.
    """
    least = int(np.bincount(y).min())
    if least < 3 * folds:
        raise ValueError(f"The smallest class has {least} households: {3 * folds} are needed.")
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    return cross_val_predict(classifier(seed), X, y, cv=cut, method="predict_proba")


def shares_held_out(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The shares of the classes (N, C) among the households of the other folds.

    It is what `held_out` gives to a model that reads nothing: the baseline of every guess.
    """
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed)
    shares = DummyClassifier(strategy="prior")
    return cross_val_predict(shares, y[:, None], y, cv=cut, method="predict_proba")


def reliability(probability: np.ndarray, happened: np.ndarray) -> pd.DataFrame:
    """A table of promised probabilities and what came of them, one row for each tenth of 0..1.

    Tenths without a case are left out. The columns are the mean `promised`, the share that
    `happened`, and the number of cases `n`. Both arguments are (N,).
    """
    place = np.minimum((np.asarray(probability) * 10).astype(int), 9)
    frame = pd.DataFrame({"promised": probability, "happened": happened, "n": 1})
    table = frame.groupby(place).agg({"promised": "mean", "happened": "mean", "n": "sum"})
    return table.rename_axis("bin")


def calibration_error(table: pd.DataFrame) -> float:
    """The expected calibration error of a `reliability` table (Guo et al. 2017).

    It is the mean of |promised - happened|, weighted by n. An honest forecaster too has an error
    above 0 where there are few cases, by chance.
    """
    return float(np.average((table["promised"] - table["happened"]).abs(), weights=table["n"]))


def contributions(model: GridSearchCV, weights: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """The log-odds (I,) that each item adds for one household, beyond an average household.

    The model is linear and the household's vector is a mean over purchases, so its log-odds are the
    sum of these numbers and the intercept.

    Args:
        model: a fitted `classifier` of two classes on `user_vectors`.
        weights: (1, I), a row of `purchase_weights`.
        vectors: (I, E).
    """
    scaler, line = model.best_estimator_
    slope = line.coef_[0] / scaler.scale_
    return weights.toarray()[0] * ((vectors - scaler.mean_) @ slope)


def thresholds(
    probability: np.ndarray, happened: np.ndarray, right: float = 0.8, least: int = 20
) -> tuple[float, float]:
    """The probabilities up to which a card may say no, and from which it may say yes.

    They are as near to one half as they can be while a share of at least `right` of the households
    beyond each was as the card says, and there are at least `least` of these. Where
    there is no such probability, the first is -inf or the second inf: then the card stays silent.
    What is said of other households is right less often, for the thresholds were chosen here.

    Args:
        probability: (N,), each by a model that has not seen the household.
        happened: (N,), 1 or True where the household is of the kind.

    Example:
        >>> p, kids = np.linspace(0, 1, 101), np.linspace(0, 1, 101) > 0.3
        >>> thresholds(p, kids, right=1.0)
        (0.3, 0.5)
        >>> thresholds(p[30:40], kids[30:40])
        (-inf, inf)
    """
    probability, happened = np.asarray(probability), np.asarray(happened, dtype=bool)
    ends = []
    for sign, true in ((-1, ~happened), (1, happened)):
        order = np.argsort(-sign * probability, kind="stable")
        share = np.cumsum(true[order]) / np.arange(1, len(order) + 1)
        # Households of one probability are on one side together.
        whole = np.append(np.diff(probability[order]) != 0, True)
        enough = np.arange(1, len(order) + 1) >= least
        enough &= sign * (probability[order] - 0.5) >= 0
        found = np.flatnonzero(whole & enough & (share >= right))
        ends.append(float(probability[order][found[-1]]) if len(found) else sign * np.inf)
    return ends[0], ends[1]


def likely(
    what: str,
    probability: float,
    sure: tuple[float, float],
    right: tuple[float, float],
    parts: np.ndarray,
    own: pd.DataFrame,
) -> list[Statement]:
    """The statement that a household is, or is not, of some kind, in a list of one or none.

    There is none for a probability between the two that are `sure`, nor where it is not known how
    often it would be right. Its text says that, and not the probability, which is least to be
    trusted at the ends, where a card speaks. The statement rests on the purchases of the ten items
    that add most to it.

    Args:
        what: the kind, as the text of the statement calls it.
        probability: by a model that has not seen the household.
        sure: the probabilities up to which it is unlikely and from which it is likely, as
            `thresholds` chose them on other households.
        right: the shares of households held out of which "unlikely" and "likely" were true when
            such thresholds let a card say so; NaN where that was not measured.
        parts: (I,), from `contributions`.
        own: the household's events.
    """
    if not (probability <= sure[0] or probability >= sure[1]):  # NaN too
        return []
    sign = 1 if probability >= sure[1] else -1
    often = right[int(sign > 0)]
    if np.isnan(often):
        return []
    best = np.argsort(-sign * parts)[:10]
    labels = own.index[own["item"].isin(best[sign * parts[best] > 0])].to_numpy()
    word = "likely" if sign > 0 else "unlikely"
    text = (
        f"{what}: {word}. A guess, not a fact: of 100 households of which a card says so, "
        f"it is right about {100 * often:.0f}."
    )
    return [Statement("household", text, probability, 0.5, None, labels)]

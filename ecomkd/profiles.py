"""User profiles: what a person's purchases say, in sentences that lead back to the purchases.

All tables know the days before `day` alone. Sizes: U users, I items, G groups of items, T texts,
N observations, S shoppers of a simulated shop, P its products, Q queries, K candidates of each.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import scipy.sparse as sp
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler, normalize

from ecomkd.data.baskets import Baskets
from ecomkd.data.schema import GAINS
from ecomkd.data.shop import Shop

SENSITIVE = {
    "health": "COLD AND FLU|ANALGESIC|FIRST AID|VITAMIN|ANTACID|SINUS|LAXATIVE|EYE AND EAR"
    "|VISION AIDS|FOOT CARE|PHARMACY|HEALTH|INCONTINENCE|MEDICAT|SUPPLEMENT|NUT SUPP"
    "|DIET CNTRL|DIET CONTROL|DIETARY|FITNESS&DIET|RESTRICTED DIET|SUGAR FREE",
    "pregnancy and infants": r"\bBABY (?!BACK)|BABYFOOD|INFANT|DIAPER|PREGNANCY",
    "intimacy": r"\bFEM|FAMILY PLANNING|PROPHYLACTIC",
    "alcohol": "BEERS/ALES|BEERALE|(?:DOMESTIC|IMPORTED|MISC) WINE|LIQUOR",
    "tobacco": "CIGAR|TOBACCO|SMOKING",
    "origin and belief": "ETHNIC|HISPANIC|MEXICAN|KOSHER",
    "reading": "MAGAZINE|NEWSPAPER|BOOKSTORE",
}
"""What a profile must not be fed with: by reason, a pattern of the categories and types of The
Complete Journey. The list is a choice, and another shop needs its own."""

LEAST = 20
"""A sentence rests on so many unrelated observations at least,"""
CERTAIN = 3.0
"""and lies so many standard errors away from what is usual."""
RECENT = 84
"""Days that are compared with those before them."""
PRIOR = 20.0
"""So many purchases like everybody's are added to a user's own before shares are taken."""

_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


# What is read ---------------------------------------------------------------------------------


def sensitive(items: pd.DataFrame) -> pd.Series:
    """For each item the reason in `SENSITIVE` not to read it, "" where there is none.

    Args:
        items: with `category` and `type`.
    """
    names = items["category"] + "/" + items["type"]
    reason = pd.Series("", items.index, name="reason")
    for name, pattern in SENSITIVE.items():
        reason[(reason == "") & names.str.contains(pattern)] = name
    return reason


def without(baskets: Baskets, hidden: np.ndarray) -> Baskets:
    """The baskets without the purchases of the items where `hidden` (I,) is true.

    Rows of users and items, and labels of events, stay what they were. Raises ValueError when
    nothing is left.
    """
    events = baskets.events[~np.asarray(hidden)[baskets.events["item"]]]
    if events.empty:
        raise ValueError("No purchase is left: hide fewer items.")
    return replace(baskets, events=events)


def group_counts(
    baskets: Baskets, day: int, groups: np.ndarray, scale: float | None = None
) -> sp.csr_matrix:
    """How often each user bought of each group of items before `day`, (U, G).

    Args:
        groups: (I,), for each item the number of its group.
        scale: with it a purchase of age a days counts exp(-a / scale).
    """
    past = baskets.between(0, day)
    weight = np.ones(len(past)) if scale is None else np.exp((past["day"] - day) / scale)
    shape = len(baskets.users), int(groups.max()) + 1
    return sp.csr_matrix((weight, (past["user"], groups[past["item"]])), shape)


# Interests --------------------------------------------------------------------------------------


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """Groups of texts that mean something alike, (T,): k-means on their directions.

    `vectors` (T, E) are an encoder's. The mean of all texts is taken away first.
    """
    unit = normalize(vectors - vectors.mean(axis=0))
    return KMeans(clusters, n_init=1, random_state=seed).fit_predict(unit)


def names_of(baskets: Baskets, day: int, groups: np.ndarray) -> list[str]:
    """A name for each group of items: its two types that are bought most."""
    types = baskets.items["type"].str.lower().str.replace(r"\s+", " ", regex=True).to_numpy()
    bought = baskets.between(0, day)["item"]
    table = pd.DataFrame({"group": groups[bought], "type": types[bought]}).value_counts()
    best = table.reset_index().groupby("group")["type"].agg(lambda own: ", ".join(own[:2]))
    return best.reindex(range(groups.max() + 1), fill_value="not bought yet").tolist()


def lift(counts: sp.csr_matrix, prior: float = PRIOR) -> np.ndarray:
    """How many times the shop's share each user's share of each group is, (U, G).

    Shares are shrunk: `prior` purchases like everybody's join the user's own, so that a user
    without purchases has 1 everywhere.
    """
    counts = counts.toarray()
    share = _share(counts)
    own = (counts + prior * share) / (counts.sum(axis=1, keepdims=True) + prior)
    return np.divide(own, share, out=np.ones_like(own), where=share > 0)


def surprise(counts: sp.csr_matrix) -> np.ndarray:
    """Standard errors between a user's purchases of a group and the number that the shop's shares
    give, (U, G), as of Poisson counts."""
    counts = counts.toarray()
    expected = counts.sum(axis=1, keepdims=True) * _share(counts)
    return (counts - expected) / np.sqrt(np.maximum(expected, 1))


def trend(before: sp.csr_matrix, recent: sp.csr_matrix, prior: float = PRIOR) -> np.ndarray:
    """Standard errors by which each user's interest in each group rose, (U, G); below 0 it fell.

    What is expected of late is the user's share before, times what everybody's share has changed
    by: a season is no interest. Users with fewer than `LEAST` purchases before have 0.
    """
    before, recent = before.toarray(), recent.toarray()
    old, new = _share(before), _share(recent)
    own = (before + prior * old) / (before.sum(axis=1, keepdims=True) + prior)
    own *= np.divide(new, old, out=np.ones_like(old), where=old > 0)
    known = before.sum(axis=1, keepdims=True) >= LEAST
    own = np.divide(own, own.sum(axis=1, keepdims=True), out=own, where=known)
    expected = recent.sum(axis=1, keepdims=True) * own
    # The share before is an estimate too: its own error comes on top.
    variance = expected * (1 + expected / (before + 1))
    return known * (recent - expected) / np.sqrt(np.maximum(variance, 1))


def _share(counts: np.ndarray) -> np.ndarray:
    return counts.sum(axis=0) / max(counts.sum(), 1)


# Habits: what was observed against what chance would give -----------------------------------------


def price_places(baskets: Baskets, day: int) -> pd.DataFrame:
    """Where each price lies among all that were paid for the same type and size, 0 to 1.

    Things without a size are left out, since their pieces cannot be compared, and so are types and
    sizes that were bought fewer than `LEAST` times or are one item alone. For `against`, an item is
    a cluster.
    """
    past = _described(baskets, day, "type", "size")
    past = past[(baskets.items["size"] != "").to_numpy()[past["item"]]]
    by = past.groupby(["type", "size"])
    kept = (by["price"].transform("size") >= LEAST) & (by["item"].transform("nunique") > 1)
    past = past[kept]
    by = past.groupby(["type", "size"])["price"]
    place = (by.rank() - 0.5) / by.transform("size")
    return _observed(past, past["item"], place, 0.5)


def own_brands(baskets: Baskets, day: int) -> pd.DataFrame:
    """Whether each purchase is of the shop's own brand, against the share of its type.

    Types that have one kind of brand alone are left out. For `against`, a type is a cluster.
    """
    past = _described(baskets, day, "type")
    private = (baskets.items["brand"] == "Private").to_numpy(float)
    own = pd.Series(private[past["item"]], past.index)
    share = own.groupby(past["type"]).transform("mean")
    choice = share.between(0, 1, inclusive="neither")
    return _observed(past, past["type"], own, share)[choice]


def repeats(baskets: Baskets, day: int) -> pd.DataFrame:
    """Whether a type is bought of the same maker as the time before, against what is usual.

    Chance gives the maker's share s of the type. Everybody comes back more often than that, so
    what is usual is s + κ · (1 - s), with κ such that all users together do as expected. Of a
    basket the first purchase of the type counts; types of a single maker are left out. For
    `against`, a type is a cluster.
    """
    past = _described(baskets, day, "type", "maker").drop_duplicates(["user", "type", "basket"])
    before = past.groupby(["user", "type"])["maker"].shift()
    sold = past.groupby("type")["maker"].value_counts(normalize=True)
    place = pd.MultiIndex.from_arrays([past["type"], before])
    share = pd.Series(sold.reindex(place).to_numpy(), past.index)
    seen = _observed(past, past["type"], (past["maker"] == before).astype(float), share)
    seen = seen[share < 1]
    room = 1 - seen["expected"]
    kappa = (seen["got"] - seen["expected"]).sum() / room.sum()
    return seen.assign(chance=seen["expected"], expected=seen["expected"] + kappa * room)


def against(seen: pd.DataFrame, users: int) -> pd.DataFrame:
    """What each user was observed to do, against what was expected: one row for each user.

    Args:
        seen: `user`, `cluster`, `got` and `expected`, one row for each observation. Observations of
            one cluster are not independent, so errors are those of sums over clusters.
        users: U.

    Returns:
        `value` and `expected` (means), `n`, `clusters`, and `z`, their difference in standard
        errors; NaN where nothing was observed, and z where there are fewer than two clusters.
    """
    seen = seen.assign(excess=seen["got"] - seen["expected"])
    by = seen.groupby("user")
    table = by.agg(value=("got", "mean"), expected=("expected", "mean"), n=("got", "size"))
    table["clusters"] = by["cluster"].nunique()
    rest = seen["excess"] - by["excess"].transform("mean")
    squares = rest.groupby([seen["user"], seen["cluster"]]).sum() ** 2
    c = table["clusters"]
    variance = squares.groupby("user").sum() * c / (c - 1).where(c > 1)
    # As if one more observation had been off by a half: who never varies is not certain.
    table["z"] = (table["value"] - table["expected"]) / (np.sqrt(variance + 0.25) / table["n"])
    return table.reindex(range(users))


def rhythm(baskets: Baskets, day: int, first_day: str) -> pd.DataFrame:
    """When each user comes: `visits` (days with a purchase), `a_week`, `gap` (the median of the
    days between two), `weekday` (the most usual), its `share`, everybody's share of it, `expected`,
    and `z`, the standard errors between the two.

    `first_day` is the date of day 0. Users without a purchase have NaN.
    """
    seen = baskets.between(0, day)[["user", "day"]].drop_duplicates()
    seen = seen.assign(weekday=(seen["day"] + pd.Timestamp(first_day).weekday()) % 7)
    by = seen.groupby("user")["day"]
    table = by.agg(visits="size", first="min")
    table["a_week"] = 7 * table["visits"] / (day - table.pop("first"))
    table["gap"] = by.agg(lambda days: days.diff().median())
    counts = pd.crosstab(seen["user"], seen["weekday"]).reindex(columns=range(7), fill_value=0)
    usual = counts.to_numpy().argmax(axis=1)
    table["weekday"] = np.array(_DAYS)[usual]
    table["share"] = counts.max(axis=1) / table["visits"]
    table["expected"] = (counts.sum() / counts.to_numpy().sum()).to_numpy()[usual]
    error = np.sqrt(table["expected"] * (1 - table["expected"]) / table["visits"])
    table["z"] = (table["share"] - table["expected"]) / error
    return table.reindex(range(len(baskets.users)))


def _described(baskets: Baskets, day: int, *columns: str) -> pd.DataFrame:
    """Past events with columns of their items, as codes, which are quicker to group than words."""
    past = baskets.between(0, day)
    codes = {name: pd.factorize(baskets.items[name])[0] for name in columns}
    return past.assign(**{name: code[past["item"]] for name, code in codes.items()})


def _observed(past: pd.DataFrame, cluster, got, expected) -> pd.DataFrame:
    return pd.DataFrame(
        {"user": past["user"], "cluster": cluster, "got": got, "expected": expected}
    )


# Cards ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Statement:
    """A sentence about a user, and what it rests on."""

    topic: str
    text: str
    value: float
    usual: float
    """What `value` would be of somebody like everybody."""
    about: int | None
    """The number of the group of items, where it speaks of one."""
    events: np.ndarray
    """The labels of the purchases, in `Baskets.events`."""


class Cards:
    """Profile cards: for a row of users, the sentences that its purchases carry.

    What is `sensitive` is not read. A sentence is made of `LEAST` clusters of observations or more,
    see `against`, or of `LEAST` days; a quarter of that many purchases do where a group of items is
    counted. What is observed lies `CERTAIN` standard errors away from what is usual, but for how
    often somebody comes. A user who gives no such reason has an empty card.

    Args:
        baskets: with `type`, `category`, `brand`, `size` and `maker` of items.
        day: the first day that is not known.
        groups: (I,), for each item the number of its group.
        first_day: the date of day 0.
    """

    def __init__(self, baskets: Baskets, day: int, groups: np.ndarray, first_day: str):
        baskets = without(baskets, sensitive(baskets.items) != "")
        users, start = len(baskets.users), max(0, day - RECENT)
        self.day, self.groups = day, groups
        self.names = names_of(baskets, day, groups)
        self.past = baskets.between(0, day)
        self.rows = self.past.groupby("user").indices
        self.counts = group_counts(baskets, day, groups)
        self.lift, self.surprise = lift(self.counts), surprise(self.counts)
        before = group_counts(baskets, start, groups)
        before.resize(self.counts.shape)
        self.recent = self.counts - before
        self.trend = trend(before, self.recent)
        self.seen = {
            "price level": price_places(baskets, day),
            "own brands": own_brands(baskets, day),
            "loyalty": repeats(baskets, day),
        }
        self.habits = {topic: against(seen, users) for topic, seen in self.seen.items()}
        self.rhythm = rhythm(baskets, day, first_day)
        self._labels = {topic: seen.groupby("user").groups for topic, seen in self.seen.items()}

    def __call__(self, user: int) -> list[Statement]:
        """The card of a user: interests, what rises and falls, habits, rhythm."""
        if user not in self.rows:
            return []
        own = self.past.iloc[self.rows[user]]
        return [*self._interests(user, own), *self._habits(user), *self._rhythm(user, own)]

    def _interests(self, user: int, own: pd.DataFrame) -> list[Statement]:
        group, bought = self.groups[own["item"]], self.counts[[user]].toarray()[0]
        late = own["day"].to_numpy() >= self.day - RECENT
        found = []
        firm = (bought >= LEAST / 4) & (self.surprise[user] >= CERTAIN)
        for g in np.flatnonzero(firm)[np.argsort(-self.surprise[user][firm])]:
            times = self.lift[user, g]
            text = (
                f"Buys {self.names[g]} {times:.1f} times as much as usual: "
                f"{bought[g]:.0f} of {len(own)} purchases."
            )
            labels = own.index[group == g].to_numpy()
            found.append(Statement("interest", text, times, 1.0, int(g), labels))
        of_late = self.recent[[user]].toarray()[0]
        for sign, topic in ((1, "rising"), (-1, "falling")):
            moved = sign * self.trend[user]
            enough = (of_late if sign > 0 else bought - of_late) >= LEAST / 4
            for g in np.flatnonzero(enough & (moved >= CERTAIN)):
                text = (
                    f"Of late buys {'more' if sign > 0 else 'less'} {self.names[g]}: "
                    f"{of_late[g]:.0f} purchases in {RECENT} days, "
                    f"{bought[g] - of_late[g]:.0f} before."
                )
                labels = own.index[(group == g) & (late | (sign < 0))].to_numpy()
                found.append(Statement(topic, text, self.trend[user, g], 0.0, int(g), labels))
        return found

    def _habits(self, user: int) -> list[Statement]:
        texts = {
            "price level": "Pays {} than usual for the same type and size: place {:.2f} from the "
            "cheapest (0) to the dearest (1), usual {:.2f}; {} purchases.",
            "own brands": "Buys the shop's own brands {} than usual: {:.0%} of purchases, "
            "usual {:.0%} for these types; {} purchases.",
            "loyalty": "Comes back to the same maker {} than usual: {:.0%} of the times, "
            "usual {:.0%} for these types; {} purchases.",
        }
        words = {"price level": ("more", "less"), "loyalty": ("more often", "less often")}
        found = []
        for topic, text in texts.items():
            row = self.habits[topic].loc[user]
            if not (row["clusters"] >= LEAST and abs(row["z"]) >= CERTAIN):
                continue
            word = words.get(topic, ("more", "less"))[int(row["z"] < 0)]
            text = text.format(word, row["value"], row["expected"], int(row["n"]))
            labels = self._labels[topic][user].to_numpy()
            found.append(Statement(topic, text, row["value"], row["expected"], None, labels))
        return found

    def _rhythm(self, user: int, own: pd.DataFrame) -> list[Statement]:
        row, found = self.rhythm.loc[user], []
        if row["visits"] < LEAST:
            return found
        usual = self.rhythm["a_week"].median()
        text = (
            f"Comes {row['a_week']:.1f} times a week, usual {usual:.1f}; {row['visits']:.0f} days."
        )
        labels = own.index.to_numpy()
        found.append(Statement("rhythm", text, row["a_week"], usual, None, labels))
        if row["z"] >= CERTAIN:
            text = (
                f"Comes on {row['weekday']} more than usual: {row['share']:.0%} of "
                f"{row['visits']:.0f} days, usual {row['expected']:.0%}."
            )
            found.append(Statement("weekday", text, row["share"], row["expected"], None, labels))
        return found


# Who lives there ---------------------------------------------------------------------------------


def demographics(users: pd.DataFrame) -> pd.DataFrame:
    """What is known of the households of The Complete Journey, in a few classes each.

    Rows of users who told it; columns `kids` (no, yes), `people` (1, 2, 3+), `age` (under 35, 35
    to 54, 55+) and `income` (under 35K, 35K to 74K, 75K+), categories in this order.
    """
    users = users[users["age"].notna()]
    kids = users["composition"].str.endswith(" Kids") & ~users["composition"].str.contains("No")
    income = {"Under 15K": 0, "15-24K": 0, "25-34K": 0, "35-49K": 1, "50-74K": 1}
    age = {"19-24": 0, "25-34": 0, "35-44": 1, "45-54": 1, "55-64": 2, "65+": 2}
    codes = {
        "kids": (kids.astype(int), ("no", "yes")),
        "people": (users["people"].map({"1": 0, "2": 1}).fillna(2), ("1", "2", "3+")),
        "age": (users["age"].map(age), ("under 35", "35 to 54", "55+")),
        "income": (users["income"].map(income).fillna(2), ("under 35K", "35K to 74K", "75K+")),
    }
    return pd.DataFrame(
        {
            name: pd.Categorical.from_codes(code.astype(int), labels)
            for name, (code, labels) in codes.items()
        },
        users.index,
    )


def purchase_weights(baskets: Baskets, day: int) -> sp.csr_matrix:
    """How much each item counts for each user, (U, I), a user's sum 1: log(1 + times bought) times
    log(U / (1 + buyers)), so that what everybody buys says little."""
    counts = group_counts(baskets, day, np.arange(len(baskets.items)))
    buyers = np.bincount(counts.indices, minlength=counts.shape[1])
    rarity = np.maximum(np.log(counts.shape[0] / (1 + buyers)), 0)
    return normalize(counts.log1p() @ sp.diags(rarity), norm="l1")


def user_vectors(weights: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """Each user's weighted mean (U, E) of the vectors (I, E) of the items."""
    return weights @ vectors


def classifier(seed: int) -> GridSearchCV:
    """A logistic regression on standardised columns, its penalty chosen by log loss."""
    line = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
    grid = {"logisticregression__C": np.logspace(-4, -1, 7)}
    inner = StratifiedKFold(3, shuffle=True, random_state=seed)
    return GridSearchCV(line, grid, scoring="neg_log_loss", cv=inner)


def held_out(X: np.ndarray, y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Probabilities (N, C) of each class for households that the model has not seen.

    Args:
        X: (N, F), one row for each household, so that no household is in two folds.
        y: (N,) classes 0..C-1.
        folds: each is left out once.
        seed: of the folds.

    Raises ValueError when a class is too small to be in every fold, inner ones too.
    """
    least = int(np.bincount(y).min())
    if least < 3 * folds:
        raise ValueError(f"The smallest class has {least} households: {3 * folds} are needed.")
    found = np.zeros((len(y), int(y.max()) + 1))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(X, y):
        found[test] = classifier(seed).fit(X[train], y[train]).predict_proba(X[test])
    return found


def shares_held_out(y: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """As `held_out`, of the shares of the classes alone, (N, C): what the majority row knows."""
    found = np.zeros((len(y), int(y.max()) + 1))
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(y, y):
        found[test] = np.bincount(y[train], minlength=found.shape[1]) / len(train)
    return found


def reliability(probability: np.ndarray, happened: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """What was promised and what came: for each tenth of 0..1 with a row in it, the mean
    `promised`, the share that `happened`, and `n`. Both arguments are (N,)."""
    place = np.minimum((np.asarray(probability) * bins).astype(int), bins - 1)
    frame = pd.DataFrame({"promised": probability, "happened": happened, "n": 1})
    table = frame.groupby(place).agg({"promised": "mean", "happened": "mean", "n": "sum"})
    return table.rename_axis("bin")


def calibration_error(table: pd.DataFrame) -> float:
    """The expected calibration error of a `reliability` table: |promised - happened|, weighted by
    n (Guo et al. 2017). It is above 0 for an honest forecaster too, by the chance of few rows."""
    return float(np.average((table["promised"] - table["happened"]).abs(), weights=table["n"]))


def contributions(model: GridSearchCV, weights: sp.csr_matrix, vectors: np.ndarray) -> np.ndarray:
    """What each item adds to the log-odds of one household, (I,), beyond a mean household.

    The model is linear and the household's vector a mean over purchases, so its log-odds are these
    numbers' sum and the intercept.

    Args:
        model: a fitted `classifier` of two classes on `user_vectors`.
        weights: (1, I), a row of `purchase_weights`.
        vectors: (I, E).
    """
    scaler, line = model.best_estimator_
    slope = line.coef_[0] / scaler.scale_
    return weights.toarray()[0] * ((vectors - scaler.mean_) @ slope)


def likely(
    what: str, probability: float, parts: np.ndarray, own: pd.DataFrame, sure: float = 0.75
) -> list[Statement]:
    """The statement that a household is, or is not, of some kind; none between 1 - `sure` and
    `sure`.

    It rests on the purchases of the ten items that add most to it.

    Args:
        probability: of a model that has not seen the household.
        parts: (I,), from `contributions`.
        own: the household's events.
    """
    if 1 - sure < probability < sure:
        return []
    sign = 1 if probability >= sure else -1
    best = np.argsort(-sign * parts)[:10]
    labels = own.index[own["item"].isin(best[sign * parts[best] > 0])].to_numpy()
    word = "likely" if sign > 0 else "unlikely"
    text = f"{what}: {word}, probability {probability:.2f}. A guess, not a fact."
    return [Statement("household", text, probability, 0.5, None, labels)]


# A simulated shop: searches with a profile -------------------------------------------------------


def tastes(shop: Shop) -> np.ndarray:
    """How well each product suits each shopper, (S, P), 0 to 1: the shop's truth."""
    return np.stack([shop.taste(name).to_numpy() for name in shop.shoppers["shopper_id"]])


@dataclass(frozen=True)
class Searches:
    """Queries and their judged products. Where a query has fewer than K of them, the last columns
    have gain 0 and score -inf."""

    products: np.ndarray
    """(Q, K) rows of the shop's products."""
    gains: np.ndarray
    """(Q, K), of the labels."""
    scores: np.ndarray
    """(Q, K), of a model that knows no shopper."""


def searches(shop: Shop, pairs: pd.DataFrame) -> Searches:
    """The searches of `pairs`: `query_id`, `product_id`, `esci_label`, `score`.

    Queries of which no product has a gain are left out: no order of them is better than another.
    """
    row = pd.Series(range(len(shop.products)), shop.products["product_id"])
    query = pd.factorize(pairs["query_id"])[0]
    place = pairs.groupby(query).cumcount().to_numpy()
    shape = query.max() + 1, place.max() + 1
    products, gains, scores = np.zeros(shape, int), np.zeros(shape), np.full(shape, -np.inf)
    products[query, place] = row.loc[pairs["product_id"]]
    gains[query, place] = pairs["esci_label"].map(GAINS)
    scores[query, place] = pairs["score"]
    kept = gains.sum(axis=1) > 0
    return Searches(products[kept], gains[kept], scores[kept])


def personal(asked: Searches, taste: np.ndarray) -> np.ndarray:
    """What each candidate is worth to each shopper, (S, Q, K), as `Shop.personal_relevance`."""
    return asked.gains * (1 + taste[:, asked.products]) / 2


def draw(
    asked: Searches, taste: np.ndarray, purchases: int, seed: int, clarity: float = 4.0
) -> np.ndarray:
    """What each shopper buys, (S, purchases), rows of products.

    A candidate of any query is bought with a chance proportional to what it is worth to the shopper
    to the power of `clarity`: with 1 a favourite is bought at most twice as often as what suits
    nobody, with 4 up to 16 times.
    """
    rng = np.random.default_rng(seed)
    worth = personal(asked, taste).reshape(len(taste), -1) ** clarity
    chance = worth / worth.sum(axis=1, keepdims=True)
    place = [rng.choice(worth.shape[1], size=purchases, p=own) for own in chance]
    return asked.products.ravel()[np.array(place).reshape(len(taste), purchases)]


def match(products: pd.DataFrame, bought: np.ndarray, prior: float) -> np.ndarray:
    """How well each product fits what each shopper bought, (S, P); 0 where nothing was bought.

    The sum of three: the logarithms of the lift of its department and, within the department, of
    its brand; and how much nearer its price is to the shopper's level than to the middle, both as
    places among the prices of a type. Shares and level are shrunk by `prior` purchases of a shopper
    like the shop.

    Args:
        products: `department`, `product_brand`, `product_type` and `price_cents`.
        bought: (S, n) rows of `products`.
    """
    department, brand = (
        pd.factorize(products[name])[0] for name in ("department", "product_brand")
    )
    prices = products.groupby("product_type")["price_cents"]
    place = ((prices.rank() - 0.5) / prices.transform("size")).to_numpy()
    sold, sold_brands = np.bincount(department), np.bincount(brand)
    home = np.zeros(len(sold_brands), int)
    home[brand] = department
    share, brand_share = sold / sold.sum(), sold_brands / sold[home]
    shoppers, n = bought.shape
    row = np.repeat(np.arange(shoppers), n)
    counts = np.zeros((shoppers, len(sold)))
    np.add.at(counts, (row, department[bought].ravel()), 1)
    brands = np.zeros((shoppers, len(sold_brands)))
    np.add.at(brands, (row, brand[bought].ravel()), 1)
    by_department = np.log((counts / share + prior) / (n + prior))
    by_brand = np.log((brands / brand_share + prior) / (counts[:, home] + prior))
    level = (place[bought].sum(axis=1) + prior / 2) / (n + prior)
    nearer = np.abs(place - 0.5) - np.abs(place - level[:, None])
    return by_department[:, department] + by_brand[:, brand] + nearer


def ndcg(scores: np.ndarray, worth: np.ndarray, depth: int = 10) -> np.ndarray:
    """nDCG at `depth` of the last axis of two (..., K) arrays; the first of equals stays first."""
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :depth]
    discount = 1 / np.log2(np.arange(2, order.shape[-1] + 2))
    best = -np.sort(-worth, axis=-1)[..., :depth]
    return np.take_along_axis(worth, order, axis=-1) @ discount / (best @ discount)


def per_shopper(asked: Searches, taste: np.ndarray, fit: np.ndarray, weight: float) -> np.ndarray:
    """nDCG@10 over what candidates are worth to each shopper, the mean of all queries, (S,).

    The order is by score + `weight` · `fit` (S, P), which `match` gives.
    """
    scores = asked.scores + weight * fit[:, asked.products]
    return ndcg(scores, personal(asked, taste)).mean(axis=1)

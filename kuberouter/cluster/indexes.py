"""The incremental match index: which pods which selectors select, kept by change and never by search.

Pods with equal namespace and labels form a group, because no selector can tell them apart; selectors that say the same
are one scope. The index holds which groups are in which scopes. A pod event moves the pod between groups, which costs
what it joins or leaves; only a group never seen before is compared with scopes, and with those alone that one of its
labels leads to. Only policies that select a pod of this node have their peers followed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from kuberouter.cluster.selectors import enforceable, matches, pod_sets, target
from kuberouter.model.cluster import (
    ClusterObject,
    Labels,
    Namespace,
    NetworkPolicy,
    Operator,
    Pod,
    Requirement,
    Selector,
)
from kuberouter.model.core import ObjectRef
from kuberouter.model.policy import PodScope, PodSet, PodSets

NOWHERE = PodSets()

Anchor = tuple[str, str, str | None]
"""Namespace (empty: any), label key (empty: any labels) and label value (None: any value): where a scope is filed."""


class Touched:
    """What one event changed: policies to program or drop, local pods judged otherwise, pods in other sets."""

    __slots__ = ("isolated", "members", "policies")

    def __init__(self) -> None:
        self.policies: dict[ObjectRef, None] = {}
        self.isolated: dict[ObjectRef, None] = {}
        self.members: dict[ObjectRef, None] = {}
        """Group by group, so that pods that are in the same sets are compiled one after the other."""

    def __bool__(self) -> bool:
        return bool(self.members or self.isolated or self.policies)


class _Group:
    """Pods that no selector can tell apart.

    What there are many small ones of is kept in dictionaries without values: an empty set takes three times the memory,
    and from five members on twice.
    """

    __slots__ = ("labels", "local", "namespace", "pods", "raw", "scopes", "sets")

    def __init__(self, namespace: str, raw: Labels) -> None:
        self.namespace = namespace
        self.raw = raw
        self.labels = dict(raw)
        self.pods: dict[ObjectRef, None] = {}
        self.local: dict[ObjectRef, None] = {}
        self.scopes: dict[_Scope, None] = {}
        self.sets: PodSets | None = None
        """The sets in use that its pods are in, as last asked for; None once that may have changed."""

    def enter(self, scope: _Scope) -> None:
        """From now on its pods are in a scope."""
        self.scopes[scope] = None
        scope.groups[self] = None
        self.sets = None

    def leave(self, scope: _Scope) -> None:
        """Its pods are in a scope no longer."""
        self.scopes.pop(scope, None)
        scope.groups.pop(self, None)
        self.sets = None


class _Scope:
    """One selection of pods, the groups in it, and what it is needed for."""

    __slots__ = ("groups", "policies", "scope", "sets")

    def __init__(self, scope: PodScope) -> None:
        self.scope = scope
        self.groups: dict[_Group, None] = {}
        self.policies: dict[ObjectRef, None] = {}
        """Policies whose target it is."""
        self.sets: dict[PodSet, int] = {}
        """Sets with these pods, each with the number of active policies that refer to it."""

    def local_pods(self) -> Iterator[ObjectRef]:
        for group in self.groups:
            yield from group.local


class _Spaces:
    """The namespaces that a selector picks, and the scopes that ask for them."""

    __slots__ = ("names", "scopes")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = dict.fromkeys(names)
        self.scopes: dict[_Scope, None] = {}


class MatchIndex:
    """Pods, namespaces and policies of the cluster as seen from one node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._groups: dict[tuple[str, Labels], _Group] = {}
        self._group_of: dict[ObjectRef, _Group] = {}
        self._by_namespace: dict[str, dict[_Group, None]] = {}
        self._scopes: dict[PodScope, _Scope] = {}
        self._anchored: dict[Anchor, set[_Scope]] = {}
        self._spaces: dict[Selector, _Spaces] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._policies: dict[ObjectRef, NetworkPolicy] = {}
        self._active: dict[ObjectRef, tuple[PodSet, ...]] = {}
        self.touched = Touched()
        """What the last `update` changed."""

    # --- what compilers ask -----------------------------------------------------------------------------------------

    def followed(self, policy: ObjectRef) -> tuple[PodSet, ...] | None:
        """The sets of pods that a policy refers to; None while it selects no pod of this node."""
        return self._active.get(policy)

    def policies_of(self, pod: ObjectRef) -> Iterable[ObjectRef]:
        """The policies that select a pod of this node, in no particular order; none for any other pod."""
        group = self._group_of.get(pod)
        if group is None or pod not in group.local:
            return ()
        return {policy for scope in group.scopes for policy in scope.policies}

    def sets_of(self, pod: ObjectRef) -> PodSets:
        """The sets in use that a pod belongs to.

        Pods that no selector can tell apart get the very same answer.
        """
        group = self._group_of.get(pod)
        if group is None:
            return NOWHERE
        if group.sets is None:
            found = [s for scope in group.scopes if scope.sets for s in scope.sets]
            group.sets = PodSets(tuple([s for s in found if not s.port]), tuple([s for s in found if s.port]))
        return group.sets

    # --- changes ----------------------------------------------------------------------------------------------------

    def update(self, old: ClusterObject | None, new: ClusterObject | None) -> None:
        """Take in one object's change; `touched` then says what it means. Other kinds than the three are ignored."""
        if self.touched:
            self.touched = Touched()
        match new if new is not None else old:
            case Pod():
                self._pod(old if isinstance(old, Pod) else None, new if isinstance(new, Pod) else None)
            case Namespace(ref=ref):
                self._namespace(ref.name, dict(new.labels) if isinstance(new, Namespace) else None)
            case NetworkPolicy(ref=ref):
                self._policy(ref, new if isinstance(new, NetworkPolicy) else None)

    def _pod(self, old: Pod | None, new: Pod | None) -> None:
        ref = (new or old).ref  # type: ignore[union-attr]  # one of the two exists
        before = self._group_of.pop(ref, None)
        was_local = before is not None and ref in before.local
        after: _Group | None = None
        is_local = False
        if new is not None and enforceable(new):
            after = self._group(new.ref.namespace, new.labels)
            is_local = new.node == self._node
            self._group_of[ref] = after
            after.pods[ref] = None
            if is_local:
                after.local[ref] = None
        if before is not None and (before is not after or not is_local):
            before.local.pop(ref, None)
        if before is not None and before is not after:
            before.pods.pop(ref, None)
        for group in (before, after):
            if group is not None and group.scopes and any(scope.sets for scope in group.scopes):
                self.touched.members[ref] = None
        if was_local or is_local:
            self.touched.isolated[ref] = None
            # Pods of other nodes make no policy active, and none idle.
            if before is not after or was_local != is_local:
                changed = {scope for group in (before, after) if group is not None for scope in group.scopes}
                self._recount(policy for scope in changed for policy in scope.policies)
        if before is not None and not before.pods:
            self._drop_group(before)

    def _namespace(self, name: str, labels: dict[str, str] | None) -> None:
        if labels is not None:
            self._namespaces[name] = labels
        else:
            self._namespaces.pop(name, None)
        for selector, spaces in self._spaces.items():
            now = labels is not None and matches(selector, labels)
            if now is (name in spaces.names):
                continue
            if now:
                spaces.names[name] = None
            else:
                del spaces.names[name]
            for scope in spaces.scopes:
                self._admit(scope, name, now=now)

    def _admit(self, scope: _Scope, namespace: str, *, now: bool) -> None:
        """Pods of a namespace are from now on in a scope, or no longer, as far as their own labels let them."""
        for group in self._by_namespace.get(namespace, ()):
            if not matches(scope.scope.pods, group.labels):
                continue
            if now:
                group.enter(scope)
            else:
                group.leave(scope)
            if scope.sets:
                self.touched.members.update(group.pods)

    def _policy(self, ref: ObjectRef, new: NetworkPolicy | None) -> None:
        old = self._policies.pop(ref, None)
        self.touched.policies[ref] = None
        released: list[_Scope] = []
        if old is not None:
            scope = self._scopes[target(old)]
            self.touched.isolated.update(dict.fromkeys(scope.local_pods()))
            scope.policies.pop(ref, None)
            released.append(scope)
        if new is not None:
            self._policies[ref] = new
            scope = self._scope(target(new))
            scope.policies[ref] = None
            self.touched.isolated.update(dict.fromkeys(scope.local_pods()))
        self._recount((ref,))
        for scope in released:
            self._drop_if_idle(scope)

    # --- activity of policies ---------------------------------------------------------------------------------------

    def _recount(self, policies: Iterable[ObjectRef]) -> None:
        """Have these policies and their sets followed exactly while they select a pod of this node."""
        for ref in list(policies):
            policy = self._policies.get(ref)
            scope = self._scopes[target(policy)] if policy is not None else None
            wanted: tuple[PodSet, ...] | None = None
            if policy is not None and scope is not None and any(group.local for group in scope.groups):
                wanted = pod_sets(policy)
            had = self._active.get(ref)
            if wanted == had:
                continue
            self.touched.policies[ref] = None
            if wanted is None:
                del self._active[ref]
            else:
                self._active[ref] = wanted
            now, before = frozenset(wanted or ()), frozenset(had or ())
            for added in now - before:
                self._follow(added)
            for gone in before - now:
                self._unfollow(gone)

    def _follow(self, wanted: PodSet) -> None:
        scope = self._scope(wanted.scope)
        scope.sets[wanted] = scope.sets.get(wanted, 0) + 1
        if scope.sets[wanted] == 1:
            self._members_of(scope, wanted)

    def _unfollow(self, gone: PodSet) -> None:
        scope = self._scopes[gone.scope]
        scope.sets[gone] -= 1
        if not scope.sets[gone]:
            del scope.sets[gone]
            self._members_of(scope, gone)
            self._drop_if_idle(scope)

    def _members_of(self, scope: _Scope, pods: PodSet) -> None:
        for group in scope.groups:
            group.sets = None
            self.touched.members.update(group.local if pods.local else group.pods)

    # --- groups and scopes ------------------------------------------------------------------------------------------

    def _group(self, namespace: str, labels: Labels) -> _Group:
        group = self._groups.get((namespace, labels))
        if group is None:
            group = self._groups[namespace, labels] = _Group(namespace, labels)
            self._by_namespace.setdefault(namespace, {})[group] = None
            for scope in self._candidates(group):
                if self._selects(scope.scope, group):
                    group.enter(scope)
        return group

    def _drop_group(self, group: _Group) -> None:
        for scope in group.scopes:
            scope.groups.pop(group, None)
        del self._groups[group.namespace, group.raw]
        siblings = self._by_namespace[group.namespace]
        del siblings[group]
        if not siblings:
            del self._by_namespace[group.namespace]

    def _scope(self, wanted: PodScope) -> _Scope:
        scope = self._scopes.get(wanted)
        if scope is None:
            scope = self._scopes[wanted] = _Scope(wanted)
            for anchor in _anchors(wanted):
                self._anchored.setdefault(anchor, set()).add(scope)
            if wanted.namespaces is not None:
                self._spaces_of(wanted.namespaces).scopes[scope] = None
            leading = _leading(wanted.pods)
            key, values = (leading.key, leading.values) if leading is not None else ("", ())
            groups = self._reachable(wanted)
            if values:
                # Most groups fail already here, at a tenth of the price.
                groups = [group for group in groups if group.labels.get(key) in values]
            for group in groups:
                if matches(wanted.pods, group.labels):
                    group.enter(scope)
        return scope

    def _drop_if_idle(self, scope: _Scope) -> None:
        if scope.policies or scope.sets or self._scopes.get(scope.scope) is not scope:
            return
        del self._scopes[scope.scope]
        for anchor in _anchors(scope.scope):
            filed = self._anchored[anchor]
            filed.discard(scope)
            if not filed:
                del self._anchored[anchor]
        selector = scope.scope.namespaces
        if selector is not None:
            del self._spaces[selector].scopes[scope]
            if not self._spaces[selector].scopes:
                del self._spaces[selector]
        for group in scope.groups:
            group.scopes.pop(scope, None)

    def _candidates(self, group: _Group) -> Iterator[_Scope]:
        """Scopes that could select a group, by what they require; each at least once."""
        for namespace in (group.namespace, ""):
            yield from self._anchored.get((namespace, "", None), ())
            for key, value in group.raw:
                yield from self._anchored.get((namespace, key, value), ())
                yield from self._anchored.get((namespace, key, None), ())

    def _spaces_of(self, selector: Selector) -> _Spaces:
        spaces = self._spaces.get(selector)
        if spaces is None:
            names = (name for name, labels in self._namespaces.items() if matches(selector, labels))
            spaces = self._spaces[selector] = _Spaces(names)
        return spaces

    def _reachable(self, scope: PodScope) -> Iterable[_Group]:
        """Groups in the namespaces of a scope."""
        if scope.namespace:
            return self._by_namespace.get(scope.namespace, ())
        if scope.namespaces is None:
            return self._groups.values()
        names = self._spaces[scope.namespaces].names
        return chain.from_iterable(self._by_namespace.get(name, ()) for name in names)

    def _selects(self, scope: PodScope, group: _Group) -> bool:
        if scope.namespace and scope.namespace != group.namespace:
            return False
        # A namespace that is not known yet matches no selector: an allowance must not come by ignorance.
        if scope.namespaces is not None and group.namespace not in self._spaces[scope.namespaces].names:
            return False
        return matches(scope.pods, group.labels)


def _anchors(scope: PodScope) -> tuple[Anchor, ...]:
    """Where a scope is filed: under one requirement that every pod in it meets, if it has such a requirement."""
    chosen = _leading(scope.pods)
    if chosen is None:
        return ((scope.namespace, "", None),)
    if chosen.operator is Operator.EXISTS:
        return ((scope.namespace, chosen.key, None),)
    return tuple((scope.namespace, chosen.key, value) for value in chosen.values)


def _leading(selector: Selector) -> Requirement | None:
    """The requirement that leaves the fewest pods, as far as it can be told, if one names a label that pods have."""
    chosen: Requirement | None = None
    for requirement in selector.requirements:
        if requirement.operator is Operator.IN:
            if chosen is None or chosen.operator is Operator.EXISTS or len(requirement.values) < len(chosen.values):
                chosen = requirement
        elif requirement.operator is Operator.EXISTS and chosen is None:
            chosen = requirement
    return chosen

"""What the threads of a program agree through, as LLVM IR: claim, report, wait, sleep.

A run is split into segments by barriers. Inside a segment each launch has one claim word per
thread; a thread takes chunks from its own share first (what it wrote in the launch before is
still in its cache), then from the others'. A segment is over when all its chunks are finished, not
when all threads have arrived, so a thread that has lost its CPU, or has not woken up yet, holds
nobody up. Words carry the generation of their run: a late thread sees that its run is over and
leaves, and nothing has to be cleared.

Every thread keeps its state in eight local slots, see ``STATE_SLOTS``.
"""

from __future__ import annotations

from whet.codegen.threads.entry import ENTRY, LAUNCH, MEMORY
from whet.program import context

STATE_SLOTS = ("generation", "thread", "threads", "victim", "begin", "end", "finished", "worked")
CLAIM_SHARE = 4
"""A claim takes this part of what is left of a share, so that the last ones are single chunks.

With sixths of the whole share, two threads waited for each other for 245 of 9300 us of a ResNet-50
of 8 bits (median of the best runs).
"""

# A wait that ends while spinning doubles the time that its thread spins next, one that ends in
# sleep halves it. Spinning long where the awaited thread has no CPU made runs three times slower.
_LEAST_SPIN_NS = 4000

_FUTEX = {"x86_64": 202, "aarch64": 98}
_FSTAT = {"x86_64": 5, "aarch64": 80}
_STAT = {"st_size": 6, "st_mtime": 11, "st_mtime_nsec": 12}
"""Places in ``struct stat`` of both, in words of 8 bytes."""
_PAUSE = {
    "x86_64": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "aarch64": ("declare void @llvm.aarch64.isb(i32)", "call void @llvm.aarch64.isb(i32 15)"),
}

_CLAIM = """
define internal i1 @whet.claim(ptr %ctx, ptr %s, i64 %launch, i64 %n) noinline nounwind {{
entry:
  %gen = load i64, ptr %s, align 8
  %p.thread = getelementptr i64, ptr %s, i64 1
  %thread = load i64, ptr %p.thread, align 8
  %p.threads = getelementptr i64, ptr %s, i64 2
  %threads = load i64, ptr %p.threads, align 8
  %p.victim = getelementptr i64, ptr %s, i64 3
  %first = mul i64 %launch, %threads
  %table = getelementptr i8, ptr %ctx, i64 {claimed}
  br label %pick
pick:
  %victim = load i64, ptr %p.victim, align 8
  %over = icmp uge i64 %victim, %threads
  br i1 %over, label %none, label %share
share:
  %o0 = add i64 %thread, %victim
  %wrap = icmp uge i64 %o0, %threads
  %o1 = sub i64 %o0, %threads
  %owner = select i1 %wrap, i64 %o1, i64 %o0
  %n32 = trunc i64 %n to i32
  %t32 = trunc i64 %threads to i32
  %q32 = udiv i32 %n32, %t32
  %whole = zext i32 %q32 to i64
  %covered = mul i64 %whole, %threads
  %rest = sub i64 %n, %covered
  %larger = icmp ult i64 %owner, %rest
  %before = select i1 %larger, i64 %owner, i64 %rest
  %extra = zext i1 %larger to i64
  %m0 = mul i64 %whole, %owner
  %low = add i64 %m0, %before
  %size = add i64 %whole, %extra
  %high = add i64 %low, %size
  %empty = icmp eq i64 %size, 0
  br i1 %empty, label %next, label %look
look:
  %row = add i64 %first, %owner
  %at = mul i64 %row, 64
  %cell = getelementptr i8, ptr %table, i64 %at
  %c0 = load atomic i64, ptr %cell monotonic, align 8
  br label %try
try:
  %c = phi i64 [ %c0, %look ], [ %c1, %take ]
  %tag = lshr i64 %c, 32
  %age = sub i64 %gen, %tag
  %age32 = trunc i64 %age to i32
  %late = icmp slt i32 %age32, 0
  br i1 %late, label %none, label %index
index:
  %same = icmp eq i32 %age32, 0
  %count = and i64 %c, 4294967295
  %done = select i1 %same, i64 %count, i64 0
  %begin = add i64 %low, %done
  %full = icmp uge i64 %begin, %high
  br i1 %full, label %next, label %take
take:
  %left = sub i64 %high, %begin
  %g0 = add i64 %left, {claims_1}
  %grain = udiv i64 %g0, {claims}
  %e0 = add i64 %begin, %grain
  %cut = icmp ult i64 %e0, %high
  %end = select i1 %cut, i64 %e0, i64 %high
  %d1 = sub i64 %end, %low
  %g1 = shl i64 %gen, 32
  %new = or i64 %g1, %d1
  %pair = cmpxchg weak ptr %cell, i64 %c, i64 %new acq_rel monotonic, align 8
  %c1 = extractvalue {{ i64, i1 }} %pair, 0
  %won = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %won, label %got, label %try
got:
  %p.begin = getelementptr i64, ptr %s, i64 4
  store i64 %begin, ptr %p.begin, align 8
  %p.end = getelementptr i64, ptr %s, i64 5
  store i64 %end, ptr %p.end, align 8
  %p.fin = getelementptr i64, ptr %s, i64 6
  %f0 = load i64, ptr %p.fin, align 8
  %mine = sub i64 %end, %begin
  %f1 = add i64 %f0, %mine
  store i64 %f1, ptr %p.fin, align 8
  %p.worked = getelementptr i64, ptr %s, i64 7
  store i64 1, ptr %p.worked, align 8
  ret i1 true
next:
  %v1 = add i64 %victim, 1
  store i64 %v1, ptr %p.victim, align 8
  br label %pick
none:
  ret i1 false
}}
"""

_REPORT = """
define internal void @whet.report(ptr %ctx, ptr %s, i64 %segment, i64 %total) noinline nounwind {{
entry:
  %gen = load i64, ptr %s, align 8
  %p.fin = getelementptr i64, ptr %s, i64 6
  %mine = load i64, ptr %p.fin, align 8
  store i64 0, ptr %p.fin, align 8
  %idle = icmp eq i64 %mine, 0
  br i1 %idle, label %out, label %look
look:
  %line = mul i64 %segment, 64
  %at = add i64 %line, {finished}
  %cell = getelementptr i8, ptr %ctx, i64 %at
  %c0 = load atomic i64, ptr %cell monotonic, align 8
  %tag = shl i64 %gen, 32
  br label %try
try:
  %c = phi i64 [ %c0, %look ], [ %c1, %try ]
  %old = lshr i64 %c, 32
  %same = icmp eq i64 %old, %gen
  %count = and i64 %c, 4294967295
  %known = select i1 %same, i64 %count, i64 0
  %sum = add i64 %known, %mine
  %new = or i64 %tag, %sum
  %pair = cmpxchg weak ptr %cell, i64 %c, i64 %new seq_cst monotonic, align 8
  %c1 = extractvalue {{ i64, i1 }} %pair, 0
  %won = extractvalue {{ i64, i1 }} %pair, 1
  br i1 %won, label %added, label %try
added:
  %all = icmp eq i64 %sum, %total
  br i1 %all, label %last, label %out
last:
  %p.phase = getelementptr i8, ptr %ctx, i64 {PHASE}
  %before = atomicrmw add ptr %p.phase, i32 1 seq_cst, align 4
  %p.sleepers = getelementptr i8, ptr %ctx, i64 {SLEEPERS}
  %sleepers = load atomic i64, ptr %p.sleepers seq_cst, align 8
  %any = icmp ne i64 %sleepers, 0
  br i1 %any, label %wake, label %out
wake:
  call void @whet.wake(ptr %ctx, ptr %p.phase)
  br label %out
out:
  ret void
}}
"""

_WAIT = """
define internal i1 @whet.over(ptr %cell, i64 %gen, i64 %total) alwaysinline nounwind {{
  %w = load atomic i64, ptr %cell seq_cst, align 8
  %tag = shl i64 %gen, 32
  %want = or i64 %tag, %total
  %over = icmp eq i64 %w, %want
  ret i1 %over
}}

define internal i1 @whet.late(ptr %cell, i64 %gen) alwaysinline nounwind {{
  %w = load atomic i64, ptr %cell seq_cst, align 8
  %tag = lshr i64 %w, 32
  %age = sub i64 %gen, %tag
  %age32 = trunc i64 %age to i32
  %late = icmp slt i32 %age32, 0
  ret i1 %late
}}

define internal i1 @whet.wait(ptr %ctx, ptr %s, i64 %segment, i64 %total) noinline nounwind {{
entry:
  %gen = load i64, ptr %s, align 8
  %line = mul i64 %segment, 64
  %at = add i64 %line, {finished}
  %cell = getelementptr i8, ptr %ctx, i64 %at
  %p.phase = getelementptr i8, ptr %ctx, i64 {PHASE}
  %p.sleepers = getelementptr i8, ptr %ctx, i64 {SLEEPERS}
  %p.budget = call ptr @whet.budget(ptr %ctx, ptr %s)
  %nothing = icmp eq i64 %total, 0
  br i1 %nothing, label %go, label %quick
quick:
  %over = call i1 @whet.over(ptr %cell, i64 %gen, i64 %total)
  br i1 %over, label %go, label %begin
begin:
  %budget = load i64, ptr %p.budget, align 8
  %since = call i64 @whet.clock(ptr %ctx)
  br label %spin
spin:
  %k = phi i64 [ 0, %begin ], [ %k1, %count ], [ %k1, %time ]
  %over0 = call i1 @whet.over(ptr %cell, i64 %gen, i64 %total)
  br i1 %over0, label %grow, label %check
check:
  %late0 = call i1 @whet.late(ptr %cell, i64 %gen)
  br i1 %late0, label %leave, label %count
count:
  {pause}
  %k1 = add i64 %k, 1
  %k2 = and i64 %k1, 15
  %due = icmp eq i64 %k2, 0
  br i1 %due, label %time, label %spin
time:
  %now = call i64 @whet.clock(ptr %ctx)
  %spent = sub i64 %now, %since
  %tired = icmp ugt i64 %spent, %budget
  br i1 %tired, label %shrink, label %spin
shrink:
  %half = lshr i64 %budget, 1
  %shorter = call i64 @llvm.umax.i64(i64 %half, i64 {least_spin})
  store i64 %shorter, ptr %p.budget, align 8
  br label %sleep
sleep:
  %s0 = atomicrmw add ptr %p.sleepers, i64 1 seq_cst, align 8
  %phase = load atomic i32, ptr %p.phase seq_cst, align 4
  %over1 = call i1 @whet.over(ptr %cell, i64 %gen, i64 %total)
  %late1 = call i1 @whet.late(ptr %cell, i64 %gen)
  %awake = or i1 %over1, %late1
  br i1 %awake, label %again, label %doze
doze:
  call void @whet.sleep(ptr %ctx, ptr %p.phase, i32 %phase)
  br label %again
again:
  %s1 = atomicrmw sub ptr %p.sleepers, i64 1 seq_cst, align 8
  %over2 = call i1 @whet.over(ptr %cell, i64 %gen, i64 %total)
  br i1 %over2, label %go, label %stay
stay:
  %late2 = call i1 @whet.late(ptr %cell, i64 %gen)
  %p.stop = getelementptr i8, ptr %ctx, i64 {STOP}
  %stop = load atomic i64, ptr %p.stop seq_cst, align 8
  %stopping = icmp ne i64 %stop, 0
  %end = or i1 %late2, %stopping
  br i1 %end, label %leave, label %sleep
grow:
  %p.most = getelementptr i8, ptr %ctx, i64 {SPIN_NS}
  %most = load i64, ptr %p.most, align 8
  %twice = shl i64 %budget, 1
  %some = call i64 @llvm.umax.i64(i64 %twice, i64 {least_spin})
  %longer = call i64 @llvm.umin.i64(i64 %some, i64 %most)
  store i64 %longer, ptr %p.budget, align 8
  ret i1 true
go:
  ret i1 true
leave:
  ret i1 false
}}

define internal ptr @whet.budget(ptr %ctx, ptr %s) alwaysinline nounwind {{
  %p.thread = getelementptr i64, ptr %s, i64 1
  %thread = load i64, ptr %p.thread, align 8
  %p.threads = getelementptr i64, ptr %s, i64 2
  %threads = load i64, ptr %p.threads, align 8
  %rows = mul i64 %threads, {launches}
  %row = add i64 %rows, %thread
  %bytes = mul i64 %row, 64
  %at = add i64 %bytes, {claimed}
  %p = getelementptr i8, ptr %ctx, i64 %at
  ret ptr %p
}}

declare i64 @llvm.umin.i64(i64, i64)
declare i64 @llvm.umax.i64(i64, i64)
"""

_SLEEP = """
{pause_declaration}

define internal void @whet.sleep(ptr %ctx, ptr %word, i32 %seen) noinline nounwind {{
  %p = getelementptr i8, ptr %ctx, i64 {SYSCALL}
  %f = load ptr, ptr %p, align 8
  %r = call i64 (i64, ...) %f(i64 {futex}, ptr %word, i32 128, i32 %seen, ptr null, ptr null, i32 0)
  ret void
}}

define internal void @whet.wake(ptr %ctx, ptr %word) noinline nounwind {{
  %p = getelementptr i8, ptr %ctx, i64 {SYSCALL}
  %f = load ptr, ptr %p, align 8
  %all = add i32 0, 2147483647
  %r = call i64 (i64, ...) %f(i64 {futex}, ptr %word, i32 129, i32 %all, ptr null, ptr null, i32 0)
  ret void
}}

define internal i64 @whet.clock(ptr %ctx) noinline nounwind {{
  %time = alloca [2 x i64], align 8
  %q = getelementptr i8, ptr %ctx, i64 {CLOCK}
  %f = load ptr, ptr %q, align 8
  %r = call i32 %f(i32 1, ptr %time)
  %seconds = load i64, ptr %time, align 8
  %half = getelementptr i64, ptr %time, i64 1
  %rest = load i64, ptr %half, align 8
  %long = mul i64 %seconds, 1000000000
  %ns = add i64 %long, %rest
  ret i64 %ns
}}

define internal i64 @whet.now(ptr %ctx) noinline nounwind {{
entry:
  %p = getelementptr i8, ptr %ctx, i64 {PROFILE}
  %profile = load ptr, ptr %p, align 8
  %off = icmp eq ptr %profile, null
  br i1 %off, label %none, label %read
read:
  %ns = call i64 @whet.clock(ptr %ctx)
  ret i64 %ns
none:
  ret i64 0
}}

define internal void @whet.record(ptr %ctx, i64 %thread, i64 %launch, i64 %begin)
    noinline nounwind {{
entry:
  %p = getelementptr i8, ptr %ctx, i64 {PROFILE}
  %profile = load ptr, ptr %p, align 8
  %off = icmp eq ptr %profile, null
  br i1 %off, label %out, label %write
write:
  %end = call i64 @whet.now(ptr %ctx)
  %first = mul i64 %thread, {launches}
  %index = add i64 %first, %launch
  %twice = mul i64 %index, 2
  %slot = getelementptr i64, ptr %profile, i64 %twice
  store i64 %begin, ptr %slot, align 8
  %slot1 = getelementptr i64, ptr %slot, i64 1
  store i64 %end, ptr %slot1, align 8
  br label %out
out:
  ret void
}}
"""


def sync_text(layout: context.ContextLayout, architecture: str) -> str:
    """Return the IR of the functions that the driver of a program calls.

    Args:
        layout: where the tables lie.
        architecture: ``"x86_64"`` or ``"aarch64"``.
    """
    declaration, pause = _PAUSE[architecture]
    values = {
        "claimed": layout.claimed,
        "finished": layout.finished,
        "launches": layout.launches,
        "claims": CLAIM_SHARE,
        "claims_1": CLAIM_SHARE - 1,
        "least_spin": _LEAST_SPIN_NS,
        "futex": _FUTEX[architecture],
        "fstat": _FSTAT[architecture],
        **_STAT,
        "pause_declaration": declaration,
        "pause": pause,
    }
    names = ("THREADS", "PROFILE", "SYSCALL", "CLOCK", "SPIN_NS", "GENERATION", "STOP", "IDLE")
    values |= {name: getattr(context, name) for name in (*names, "PHASE", "SLEEPERS")}
    parts = (_SLEEP, _CLAIM, LAUNCH, _REPORT, _WAIT, ENTRY, MEMORY)
    return "".join(part.format(**values) for part in parts)

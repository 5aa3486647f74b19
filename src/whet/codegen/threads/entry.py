"""LLVM IR templates of one launch, of the functions that others call, and of C's memory calls."""

from __future__ import annotations

LAUNCH = """
define internal void @whet.share(ptr %ctx, ptr %s, i64 %launch, i64 %n, ptr %kernel, ptr %dims,
    ptr %scratch) noinline nounwind {{
entry:
  %p.victim = getelementptr i64, ptr %s, i64 3
  store i64 0, ptr %p.victim, align 8
  %p.worked = getelementptr i64, ptr %s, i64 7
  store i64 0, ptr %p.worked, align 8
  %since = call i64 @whet.now(ptr %ctx)
  br label %claim
claim:
  %again = phi i64 [ 0, %entry ], [ 1, %work ]
  %more = call i1 @whet.claim(ptr %ctx, ptr %s, i64 %launch, i64 %n)
  br i1 %more, label %work, label %done
work:
  %p.begin = getelementptr i64, ptr %s, i64 4
  %begin = load i64, ptr %p.begin, align 8
  %p.end = getelementptr i64, ptr %s, i64 5
  %end = load i64, ptr %p.end, align 8
  call void %kernel(ptr %ctx, ptr %dims, ptr %scratch, i64 %begin, i64 %end, i64 %again)
  br label %claim
done:
  %worked = load i64, ptr %p.worked, align 8
  %any = icmp ne i64 %worked, 0
  br i1 %any, label %record, label %out
record:
  %p.thread = getelementptr i64, ptr %s, i64 1
  %thread = load i64, ptr %p.thread, align 8
  call void @whet.record(ptr %ctx, i64 %thread, i64 %launch, i64 %since)
  br label %out
out:
  ret void
}}

define internal void @whet.alone(ptr %ctx, i64 %launch, i64 %n, ptr %kernel, ptr %dims,
    ptr %scratch) noinline nounwind {{
  %since = call i64 @whet.now(ptr %ctx)
  call void %kernel(ptr %ctx, ptr %dims, ptr %scratch, i64 0, i64 %n, i64 0)
  call void @whet.record(ptr %ctx, i64 0, i64 %launch, i64 %since)
  ret void
}}
"""

ENTRY = """
define void @whet_start(ptr %ctx) nounwind {{
entry:
  %p.threads = getelementptr i8, ptr %ctx, i64 {THREADS}
  %threads = load i64, ptr %p.threads, align 8
  %one = icmp eq i64 %threads, 1
  br i1 %one, label %alone, label %open
alone:
  call void @whet.serial(ptr %ctx)
  ret void
open:
  %p.gen = getelementptr i8, ptr %ctx, i64 {GENERATION}
  %g0 = atomicrmw add ptr %p.gen, i32 1 seq_cst, align 4
  %p.idle = getelementptr i8, ptr %ctx, i64 {IDLE}
  %idle = load atomic i64, ptr %p.idle seq_cst, align 8
  %any = icmp ne i64 %idle, 0
  br i1 %any, label %wake, label %run
wake:
  call void @whet.wake(ptr %ctx, ptr %p.gen)
  br label %run
run:
  call void @whet.parallel(ptr %ctx, i64 0)
  %g1 = atomicrmw add ptr %p.gen, i32 1 seq_cst, align 4
  fence seq_cst ; what the caller writes for the next run must not overtake the end of this one
  ret void
}}

define i64 @whet_start_watching(ptr %ctx, ptr %stamp) nounwind {{
  call void @whet_start(ptr %ctx)
  %stat = alloca [18 x i64], align 8
  %p = getelementptr i8, ptr %ctx, i64 {SYSCALL}
  %f = load ptr, ptr %p, align 8
  %file = load i64, ptr %stamp, align 8
  %r = call i64 (i64, ...) %f(i64 {fstat}, i64 %file, ptr %stat)
  %failed = icmp ne i64 %r, 0
  %p0 = getelementptr i64, ptr %stat, i64 {st_size}
  %p1 = getelementptr i64, ptr %stat, i64 {st_mtime}
  %p2 = getelementptr i64, ptr %stat, i64 {st_mtime_nsec}
  %q0 = getelementptr i64, ptr %stamp, i64 1
  %q1 = getelementptr i64, ptr %stamp, i64 2
  %q2 = getelementptr i64, ptr %stamp, i64 3
  %size = load i64, ptr %p0, align 8
  %seconds = load i64, ptr %p1, align 8
  %nanos = load i64, ptr %p2, align 8
  %size0 = load i64, ptr %q0, align 8
  %seconds0 = load i64, ptr %q1, align 8
  %nanos0 = load i64, ptr %q2, align 8
  %resized = icmp ne i64 %size, %size0
  %later = icmp ne i64 %seconds, %seconds0
  %latest = icmp ne i64 %nanos, %nanos0
  %o0 = or i1 %failed, %resized
  %o1 = or i1 %later, %latest
  %changed = or i1 %o0, %o1
  %number = zext i1 %changed to i64
  ret i64 %number
}}

define void @whet_run(ptr %ctx, i64 %thread) nounwind {{
entry:
  %p.threads = getelementptr i8, ptr %ctx, i64 {THREADS}
  %threads = load i64, ptr %p.threads, align 8
  %one = icmp eq i64 %threads, 1
  br i1 %one, label %alone, label %share
alone:
  call void @whet.serial(ptr %ctx)
  ret void
share:
  call void @whet.parallel(ptr %ctx, i64 %thread)
  ret void
}}

define void @whet_stop(ptr %ctx) nounwind {{
  %p.stop = getelementptr i8, ptr %ctx, i64 {STOP}
  store atomic i64 1, ptr %p.stop seq_cst, align 8
  %p.gen = getelementptr i8, ptr %ctx, i64 {GENERATION}
  %g0 = atomicrmw add ptr %p.gen, i32 2 seq_cst, align 4
  call void @whet.wake(ptr %ctx, ptr %p.gen)
  %p.phase = getelementptr i8, ptr %ctx, i64 {PHASE}
  %f0 = atomicrmw add ptr %p.phase, i32 1 seq_cst, align 4
  call void @whet.wake(ptr %ctx, ptr %p.phase)
  ret void
}}

define void @whet_worker(ptr %ctx, i64 %thread) nounwind {{
entry:
  %p.gen = getelementptr i8, ptr %ctx, i64 {GENERATION}
  %p.stop = getelementptr i8, ptr %ctx, i64 {STOP}
  %p.idle = getelementptr i8, ptr %ctx, i64 {IDLE}
  %p.spin = getelementptr i8, ptr %ctx, i64 {SPIN_NS}
  %budget = load i64, ptr %p.spin, align 8
  br label %fresh
fresh:
  %last0 = phi i32 [ 0, %entry ], [ %last, %doze ], [ %gen, %run ]
  %since = call i64 @whet.clock(ptr %ctx)
  br label %look
look:
  %last = phi i32 [ %last0, %fresh ], [ %last, %pause ], [ %last, %time ]
  %k = phi i64 [ 0, %fresh ], [ %k1, %pause ], [ %k1, %time ]
  %gen = load atomic i32, ptr %p.gen seq_cst, align 4
  %stop = load atomic i64, ptr %p.stop seq_cst, align 8
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %out, label %check
check:
  %bit = and i32 %gen, 1
  %open = icmp ne i32 %bit, 0
  %new = icmp ne i32 %gen, %last
  %go = and i1 %open, %new
  br i1 %go, label %run, label %pause
run:
  call void @whet.parallel(ptr %ctx, i64 %thread)
  br label %fresh
pause:
  {pause}
  %k1 = add i64 %k, 1
  %k2 = and i64 %k1, 15
  %due = icmp eq i64 %k2, 0
  br i1 %due, label %time, label %look
time:
  %now = call i64 @whet.clock(ptr %ctx)
  %spent = sub i64 %now, %since
  %tired = icmp ugt i64 %spent, %budget
  br i1 %tired, label %doze, label %look
doze:
  %i0 = atomicrmw add ptr %p.idle, i64 1 seq_cst, align 8
  call void @whet.sleep(ptr %ctx, ptr %p.gen, i32 %gen)
  %i1 = atomicrmw sub ptr %p.idle, i64 1 seq_cst, align 8
  br label %fresh
out:
  ret void
}}
"""

MEMORY = """
define ptr @memset(ptr %p, i32 %c, i64 %n) nounwind "no-builtins" {{
entry:
  %b = trunc i32 %c to i8
  %v0 = insertelement <32 x i8> poison, i8 %b, i32 0
  %v = shufflevector <32 x i8> %v0, <32 x i8> poison, <32 x i32> zeroinitializer
  %wide = and i64 %n, -32
  br label %w
w:
  %i = phi i64 [ 0, %entry ], [ %i1, %wb ]
  %wm = icmp ult i64 %i, %wide
  br i1 %wm, label %wb, label %t
wb:
  %q = getelementptr i8, ptr %p, i64 %i
  store <32 x i8> %v, ptr %q, align 1
  %i1 = add i64 %i, 32
  br label %w
t:
  %j = phi i64 [ %wide, %w ], [ %j1, %tb ]
  %tm = icmp ult i64 %j, %n
  br i1 %tm, label %tb, label %out
tb:
  %r = getelementptr i8, ptr %p, i64 %j
  store i8 %b, ptr %r, align 1
  %j1 = add i64 %j, 1
  br label %t
out:
  ret ptr %p
}}

define ptr @memcpy(ptr %p, ptr %s, i64 %n) nounwind "no-builtins" {{
entry:
  %wide = and i64 %n, -32
  br label %w
w:
  %i = phi i64 [ 0, %entry ], [ %i1, %wb ]
  %wm = icmp ult i64 %i, %wide
  br i1 %wm, label %wb, label %t
wb:
  %a = getelementptr i8, ptr %s, i64 %i
  %q = getelementptr i8, ptr %p, i64 %i
  %x = load <32 x i8>, ptr %a, align 1
  store <32 x i8> %x, ptr %q, align 1
  %i1 = add i64 %i, 32
  br label %w
t:
  %j = phi i64 [ %wide, %w ], [ %j1, %tb ]
  %tm = icmp ult i64 %j, %n
  br i1 %tm, label %tb, label %out
tb:
  %b = getelementptr i8, ptr %s, i64 %j
  %r = getelementptr i8, ptr %p, i64 %j
  %y = load i8, ptr %b, align 1
  store i8 %y, ptr %r, align 1
  %j1 = add i64 %j, 1
  br label %t
out:
  ret ptr %p
}}

define ptr @memmove(ptr %p, ptr %s, i64 %n) nounwind "no-builtins" {{
entry:
  %down = icmp ult ptr %s, %p
  br i1 %down, label %t, label %fore
fore:
  %r0 = call ptr @memcpy(ptr %p, ptr %s, i64 %n)
  ret ptr %p
t:
  %j = phi i64 [ %n, %entry ], [ %j1, %tb ]
  %tm = icmp ne i64 %j, 0
  br i1 %tm, label %tb, label %out
tb:
  %j1 = sub i64 %j, 1
  %b = getelementptr i8, ptr %s, i64 %j1
  %r = getelementptr i8, ptr %p, i64 %j1
  %y = load i8, ptr %b, align 1
  store i8 %y, ptr %r, align 1
  br label %t
out:
  ret ptr %p
}}
"""

/* One job, its attempts and its tokens: workers that stop, crash and come back as zombies, a net
 * that loses, repeats, delays and reorders, a CORTEX that crashes, and a submitter who cancels.
 *
 * What must hold is asserted where it could break:
 *   - at most one attempt's result is ever accepted, and never that of an older attempt; one that
 *     was given up because its lease ran out still counts while nobody has begun the job since;
 *   - no token is lost, none comes twice, and each comes from the attempt that held the job;
 *   - a job that ended stays as it ended; one whose cancellation was accepted never completes.
 *
 * Each macro below takes one rule away; spin must then find a trace that breaks an assertion.
 *   NO_RESULT_FENCE    a result counts whoever sends it
 *   NO_TOKEN_FENCE     tokens count whoever sends them
 *   LATE_ANY           an attempt that was given up counts although another has begun since
 *   NO_SEQUENCE        tokens are appended in whatever order they come
 *   NO_NEW_ATTEMPT     a claim does not count the attempt up
 *   NO_CANCEL_CHECK    a result does not look whether the job shall stop
 *   NO_END_CHECK       a job that ended can be claimed again
 *   EARLY_ACK          a call is answered before it is durable
 *   RESULT_BEFORE_TOKENS  a worker reports before all its tokens are acknowledged
 *
 * CLAIM_NEVER_LATE asserts that no attempt that was given up ever counts; spin must refute it.
 */

#ifndef WORKERS
#define WORKERS 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 3
#endif
#ifndef TOKENS
#define TOKENS 2
#endif

mtype = { pending, held, done, cancelled, failed };
mtype = { token, result, release };

/* What CORTEX knows. `saved` is what the disk has of it. */
typedef Job {
    mtype state;
    byte attempt;
    byte holder;
    byte next_chunk;
    byte length;
    bool stop_wanted;
    bool lost;              /* pending, because the holder's lease ran out */
};
Job job, saved;
byte accepted;              /* results that counted */
byte newest;                /* the newest attempt that any worker was given */
bool cancel_accepted;
byte crashes_left = 1;

/* A call that the net holds back: it arrives later, perhaps more than once. */
chan late = [2] of { mtype, byte, byte, byte, byte };

inline copy(from, to) {
    to.state = from.state; to.attempt = from.attempt; to.holder = from.holder;
    to.next_chunk = from.next_chunk; to.length = from.length; to.stop_wanted = from.stop_wanted;
    to.lost = from.lost
}

inline commit() {
#ifdef EARLY_ACK
    skip
#else
    copy(job, saved)
#endif
}

#define HOLDS(w, a) (job.state == held && job.holder == w && job.attempt == a)
#define IS_LOST(w, a) (job.state == pending && job.lost && job.holder == w && job.attempt == a)
#define ENDED(s) (s == done || s == cancelled || s == failed)

/* Given up, but nobody has begun the job since. */
#ifdef LATE_ANY
#define MAY_BE_LATE(w, a) (job.state == pending)
#else
#define MAY_BE_LATE(w, a) IS_LOST(w, a)
#endif

#ifdef NO_RESULT_FENCE
#define RESULT_COUNTS(w, a) (job.state == held)
#else
#define RESULT_COUNTS(w, a) (HOLDS(w, a) || MAY_BE_LATE(w, a))
#endif

#ifdef NO_TOKEN_FENCE
#define TOKEN_COUNTS(w, a) (job.state == held)
#else
#define TOKEN_COUNTS(w, a) (HOLDS(w, a) || MAY_BE_LATE(w, a))
#endif

#ifdef NO_SEQUENCE
#define IS_NEXT(s) true
#else
#define IS_NEXT(s) (s == job.next_chunk)
#endif

inline append(a, place) {
    assert(a == newest);            /* nobody else may speak */
    assert(place == job.length);    /* nothing lost, nothing twice */
    job.length++;
    job.next_chunk++;
}

inline end_with_result(a) {
    assert(a == newest);
#ifdef CLAIM_NEVER_LATE
    assert(job.state == held);
#endif
    if
#ifndef NO_CANCEL_CHECK
    :: job.stop_wanted -> job.state = cancelled
    :: else ->
#else
    :: true ->
#endif
        assert(job.length == TOKENS);
        assert(!cancel_accepted);
        job.state = done;
        accepted++;
        assert(accepted == 1)
    fi
}

inline give_up(is_lost) {
    if
    :: job.stop_wanted -> job.state = cancelled
    :: else -> if
        :: job.attempt < ATTEMPTS -> job.state = pending; job.lost = is_lost
        :: else -> job.state = failed
        fi
    fi
}

/* CORTEX obeys one call, and commits. `fresh` tells the caller whether what it says still counts. */
inline obey(kind, w, a, seq, place, fresh) {
    fresh = (HOLDS(w, a) || IS_LOST(w, a));
    if
    :: kind == token && TOKEN_COUNTS(w, a) && IS_NEXT(seq) -> append(a, place)
    :: kind == result && RESULT_COUNTS(w, a) -> end_with_result(a)
    :: kind == release && HOLDS(w, a) -> give_up(false)
    :: else -> skip
    fi;
    commit()
}

proctype Worker(byte me) {
    byte attempt, start, sent;
    bool fresh;
idle:
    attempt = 0; start = 0; sent = 0;
    atomic {
        (job.attempt < ATTEMPTS &&
#ifdef NO_END_CHECK
            (job.state == pending || job.state == done)
#else
            job.state == pending
#endif
        ) ->
        job.state = held;
#ifndef NO_NEW_ATTEMPT
        job.attempt++;
#endif
        newest++;
        job.holder = me; job.next_chunk = 0; job.lost = false;
        attempt = job.attempt; start = job.length; sent = 0;
        commit()
    }
    if
    :: goto idle                    /* the answer was lost: the lease will run out */
    :: skip
    fi;
    do
    :: start + sent < TOKENS ->
        if
        :: atomic { obey(token, me, attempt, sent, start + sent, fresh);
            if
            :: fresh -> sent++      /* acknowledged */
            :: !fresh -> break      /* stale: stop working */
            :: true -> skip         /* the acknowledgement was lost: it is sent again */
            fi }
        :: nfull(late) -> late ! token, me, attempt, sent, start + sent
        fi
#ifdef RESULT_BEFORE_TOKENS
    :: true ->
#else
    :: start + sent == TOKENS ->
#endif
        if
        :: atomic { obey(result, me, attempt, 0, 0, fresh) }; break
        :: nfull(late) -> late ! result, me, attempt, 0, 0
        fi
    :: atomic { obey(release, me, attempt, 0, 0, fresh) }; break      /* drained */
    :: break                        /* killed */
    od;
    goto idle
}

/* Late calls arrive, in any order, once or twice. */
proctype Net() {
    mtype kind; byte w, a, seq, place; bool fresh;
    do
    :: atomic { late ?? kind, w, a, seq, place ->
        obey(kind, w, a, seq, place, fresh);
        if
        :: nfull(late) -> late ! kind, w, a, seq, place
        :: true -> skip
        fi }
    od
}

/* A lease may run out whenever the job is held. */
proctype Reaper() {
    do
    :: atomic { job.state == held -> give_up(true); commit() }
    od
}

proctype Submitter() {
    atomic {
        if
        :: ENDED(job.state) -> skip                         /* too late: it is told so */
        :: job.state == pending -> job.state = cancelled; cancel_accepted = true
        :: job.state == held -> job.stop_wanted = true; cancel_accepted = true
        fi;
        commit()
    }
}

/* CORTEX dies and comes back with what was durable. */
proctype Crash() {
    mtype before;
    do
    :: atomic { crashes_left > 0 ->
        crashes_left--;
        before = job.state;
        copy(saved, job);
        assert(!ENDED(before) || job.state == before) }
#ifdef EARLY_ACK
    :: atomic { copy(job, saved) }  /* the disk follows when it likes */
#endif
    od
}

/* A job that ended stays as it ended. */
proctype Observer() {
    mtype end;
    atomic { ENDED(job.state) -> end = job.state };
    (job.state != end) -> assert(false)
}

init {
    byte each = 0;
    atomic {
        job.state = pending;
        copy(job, saved);
        do
        :: each < WORKERS -> each++; run Worker(each)
        :: else -> break
        od;
        run Net(); run Reaper(); run Submitter(); run Crash(); run Observer()
    }
}

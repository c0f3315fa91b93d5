-- SPDX-License-Identifier: MIT
-- Whose hook event it is, in the tables of the OpenTelemetry Collector's clickhouse exporter.
-- Hook records (send_event.py --format otlp) name a session, Claude Code's own records name a
-- session and a person. As a view it also finds a person who is named later than the event; one
-- that changes is the one whose record was the last before the event, else the first after it.
-- A key that a map does not have reads as ''.

CREATE VIEW IF NOT EXISTS hook_people AS
SELECT LogAttributes['session.id'] AS SessionId,
       LogAttributes['user.email'] AS UserEmail,
       LogAttributes['organization.id'] AS OrganisationId,
       min(Timestamp) AS FirstSeen,
       max(Timestamp) AS LastSeen
FROM otel_logs
WHERE ScopeName = 'com.anthropic.claude_code.events' AND UserEmail != '' AND SessionId != ''
GROUP BY SessionId, UserEmail, OrganisationId;

CREATE VIEW IF NOT EXISTS hook_events AS
SELECT event.*, person.UserEmail AS UserEmail, person.OrganisationId AS OrganisationId
FROM (
    SELECT Timestamp, LogAttributes['session.id'] AS SessionId,
           LogAttributes['event.name'] AS EventName, LogAttributes['tool_name'] AS ToolName,
           LogAttributes['tool_use_id'] AS ToolUseId,
           LogAttributes['source_app'] AS SourceApp, Body AS Summary
    FROM otel_logs WHERE ScopeName = 'hook-io'
) AS event
LEFT JOIN (
    SELECT SessionId, groupArray((FirstSeen, UserEmail, OrganisationId)) AS People
    FROM (SELECT * FROM hook_people ORDER BY FirstSeen) GROUP BY SessionId
) AS known ON known.SessionId = event.SessionId
ARRAY JOIN [if(empty(known.People), (toDateTime64(0, 9), '', ''),
    if(arrayExists(p -> p.1 <= event.Timestamp, known.People),
       arrayLast(p -> p.1 <= event.Timestamp, known.People), known.People[1]))] AS chosen
ARRAY JOIN [CAST(chosen, 'Tuple(At DateTime64(9), UserEmail String, OrganisationId String)')]
    AS person;

CREATE VIEW IF NOT EXISTS hook_usage AS
SELECT LogAttributes['session.id'] AS SessionId, LogAttributes['user.email'] AS UserEmail,
       LogAttributes['model'] AS Model,
       sum(toUInt64OrZero(LogAttributes['input_tokens'])) AS InputTokens,
       sum(toUInt64OrZero(LogAttributes['output_tokens'])) AS OutputTokens,
       sum(toUInt64OrZero(LogAttributes['cache_read_tokens'])) AS CacheReadTokens,
       sum(toUInt64OrZero(LogAttributes['cache_creation_tokens'])) AS CacheCreationTokens,
       sum(toFloat64OrZero(LogAttributes['cost_usd'])) AS CostUsd
FROM (
    SELECT DISTINCT LogAttributes FROM otel_logs  -- a batch that was sent again
    WHERE ScopeName = 'com.anthropic.claude_code.events'
      AND LogAttributes['event.name'] = 'api_request'
)
GROUP BY SessionId, UserEmail, Model;

{{- define "mnemos.name" -}}
{{- if contains "mnemos" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-mnemos" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "mnemos.labels" -}}
app.kubernetes.io/name: mnemos
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "mnemos.selector" -}}
app.kubernetes.io/name: mnemos
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "mnemos.image" -}}
{{- printf "%s:%s" .image.repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}

{{- define "mnemos.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "mnemos.name" .) -}}
{{- end -}}

{{- define "mnemos.secretName" -}}
{{- required "existingSecret: name the Secret that holds database-url, genome-database-url, admin-key, worker-token, genome-token, engram-access-key and engram-secret-key." .Values.existingSecret -}}
{{- end -}}

{{- define "mnemos.engramEndpoint" -}}
{{- required "engram.endpoint: name the S3 server, as http://minio.storage:9000." .Values.engram.endpoint -}}
{{- end -}}

{{- /* An environment variable from the Secret: (list root name key) */ -}}
{{- define "mnemos.secretVariable" -}}
- name: {{ index . 1 }}
  valueFrom:
    secretKeyRef:
      name: {{ include "mnemos.secretName" (index . 0) }}
      key: {{ index . 2 }}
{{- end -}}

{{- define "mnemos.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "mnemos.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- define "mnemos.cortexEnvironment" -}}
- {name: CORTEX_HTTP_HOST, value: "0.0.0.0"}
- {name: CORTEX_GRPC_HOST, value: "0.0.0.0"}
- {name: CORTEX_LOG_FORMAT, value: json}
- {name: CORTEX_DATA_DIR, value: /tmp/cortex}
- {name: CORTEX_LEASE_SECONDS, value: {{ .Values.cortex.leaseSeconds | quote }}}
- {name: CORTEX_GENOME_URL, value: "http://{{ include "mnemos.name" . }}-genome:8081"}
- {name: CORTEX_ENGRAM_URL, value: "s3://"}
- {name: CORTEX_ENGRAM_ENDPOINT, value: {{ include "mnemos.engramEndpoint" . | quote }}}
- {name: CORTEX_RESULT_BUCKET, value: {{ .Values.engram.resultBucket | quote }}}
{{- if .Values.tls.existingSecret }}
- {name: CORTEX_TLS_CERT, value: /tls/tls.crt}
- {name: CORTEX_TLS_KEY, value: /tls/tls.key}
- {name: CORTEX_HTTP_TLS, value: "false"}
{{- end }}
{{ include "mnemos.secretVariable" (list . "CORTEX_DATABASE_URL" "database-url") }}
{{ include "mnemos.secretVariable" (list . "CORTEX_ADMIN_KEY" "admin-key") }}
{{ include "mnemos.secretVariable" (list . "CORTEX_WORKER_TOKEN" "worker-token") }}
{{ include "mnemos.secretVariable" (list . "CORTEX_GENOME_TOKEN" "genome-token") }}
{{ include "mnemos.secretVariable" (list . "CORTEX_ENGRAM_ACCESS_KEY" "engram-access-key") }}
{{ include "mnemos.secretVariable" (list . "CORTEX_ENGRAM_SECRET_KEY" "engram-secret-key") }}
{{- range $name, $value := .Values.cortex.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "mnemos.genomeEnvironment" -}}
- {name: GENOME_HTTP_HOST, value: "0.0.0.0"}
- {name: GENOME_DATA_DIR, value: /tmp/genome}
{{ include "mnemos.secretVariable" (list . "GENOME_DATABASE_URL" "genome-database-url") }}
{{ include "mnemos.secretVariable" (list . "GENOME_TOKEN" "genome-token") }}
{{- range $name, $value := .Values.genome.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- /* Pods of one part keep away from each other's node: (dict root component) */ -}}
{{- define "mnemos.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels:
      {{- include "mnemos.selector" . | nindent 6 }}
{{- end -}}

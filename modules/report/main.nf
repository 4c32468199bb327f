include { quoted } from '../shell'

// The page. It reads the topic of versions and so must not add to it: it would wait for itself for ever.
process REPORT {
    label 'process_low'
    label 'image_cpu'

    input:
    path embedding, stageAs: 'results/multivi.h5mu'
    path model, stageAs: 'results/model'
    path controls, stageAs: 'results/*'          // controls.tsv or []
    path qc, stageAs: 'parts/?/*'                // [ kept ]: folders of <sample>/
    path imputed, stageAs: 'results/imputed/*'   // [ modality.zarr ] or []
    path tables, stageAs: 'results/differential/*' // [ contrast.tsv.gz ]
    path facts, stageAs: 'results/regulation/*'    // [ part.json ] or []
    path resources, stageAs: 'results/resources/*' // [ step.resources.json ]
    val versions                                   // software_versions.yml, its text
    val parameters                                 // params.json, its text

    output:
    path 'report.html', emit: page
    path 'verdict.tsv', emit: verdict
    path 'multiqc/*', emit: multiqc, optional: true
    path 'pipeline_info/run.json'
    path 'qc/*/*.preflight.json' // what CHECK_INPUTS saw is published by a run that went through
    path 'report.resources.json'

    script:
    """
    mkdir -p results/qc results/pipeline_info pipeline_info
    # of the environment, not of the task: another day or user does not make the page anew
    printf '{"started": "%s", "user": "%s"}\\n' "\${MULTIVI_NF_STARTED:-}" "\${MULTIVI_NF_USER:-}" > pipeline_info/run.json
    cp pipeline_info/run.json results/pipeline_info/
    printf '%s' ${quoted(versions)} > results/pipeline_info/software_versions.yml
    printf '%s' ${quoted(parameters)} > results/pipeline_info/params.json
    for part in parts/*/kept; do cp -rL "\$part"/. results/qc/; done
    (cd results && find qc -name '*.preflight.json' -exec cp --parents {} .. ';')
    multivi-nf-report --resources report.resources.json results --output=report.html
    """

    stub:
    """
    mkdir -p qc
    cp -r parts/*/kept/stub qc/
    mkdir multiqc pipeline_info
    echo '{}' > pipeline_info/run.json
    touch report.html verdict.tsv multiqc/multivi_nf_qc_mqc.tsv
    echo '{}' > report.resources.json
    """
}

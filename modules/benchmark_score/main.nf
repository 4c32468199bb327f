include { quoted } from '../shell'

// One method's scores on one split, against what was hidden
process BENCHMARK_SCORE {
    tag "${run.id}"
    label 'process_low'
    label 'image_cuda'

    input:
    tuple val(run), path(split, stageAs: 'task'), path(result, stageAs: 'result'), path(mosaic)
    val dataset

    output:
    path 'scores/*', emit: scores // a folder: scores.tsv, panel.json
    path '*.resources.json', topic: resources
    tuple val("${task.process}"), val('packages'), eval('multivi-nf --packages'), topic: versions

    script:
    """
    multivi-nf-benchmark-score --resources score.resources.json task result --complete=${mosaic} \\
        --dataset=${quoted(dataset)} --output=scores/${run.name}
    """

    stub:
    """
    mkdir -p scores/${run.name}
    touch scores/${run.name}/scores.tsv
    echo '{}' > scores/${run.name}/panel.json
    echo '{}' > score.resources.json
    """
}
